"""Advantages of one group, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rubric_rl.algorithms.advantages import grpo_advantages

rewards = st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=2, max_size=16)


def test_four_rewards_give_the_advantages_worked_out_by_hand() -> None:
    # mean 0.5; squared deviations 0.25, 0.25, 0, 0 -> variance 0.5 / 3, std 0.408248
    # 0.5 / (0.408248 + 0.0001) = 1.224445
    assert grpo_advantages([1.0, 0.0, 0.5, 0.5]) == pytest.approx([1.224445, -1.224445, 0, 0])


def test_two_rewards_use_the_sample_std() -> None:
    # mean 0.5, n-1 std = sqrt(0.125 / 1) = 0.353553 -> 0.25 / 0.353653
    assert grpo_advantages([0.25, 0.75]) == pytest.approx([-0.706907, 0.706907], abs=1e-6)


@pytest.mark.parametrize("group", [[0.1] * 8, [0.0, 0.0], [1 / 3] * 7])
def test_equal_rewards_give_exact_zeros(group: list[float]) -> None:
    assert grpo_advantages(group) == [0.0] * len(group)


def test_a_group_without_a_comparison_gives_zeros() -> None:
    assert grpo_advantages([]) == []
    assert grpo_advantages([0.7]) == [0.0]


@given(rewards)
def test_advantages_sum_to_zero(group: list[float]) -> None:
    assert math.fsum(grpo_advantages(group)) == pytest.approx(0, abs=1e-9)


@given(rewards, st.floats(-5, 5))
def test_adding_a_constant_to_all_rewards_changes_nothing(group: list[float], shift: float) -> None:
    assume(max(group) - min(group) > 0)
    shifted = grpo_advantages([r + shift for r in group])
    assert shifted == pytest.approx(grpo_advantages(group), abs=1e-6)


@given(rewards, st.floats(1, 100))
def test_scaling_all_rewards_changes_only_what_the_floor_does(
    group: list[float], factor: float
) -> None:
    # With std s the floor f shrinks an advantage by s / (s + f): at most f / s of it.
    assume(max(group) - min(group) >= 0.1)
    scaled = grpo_advantages([r * factor for r in group])
    assert scaled == pytest.approx(grpo_advantages(group), rel=5e-3, abs=1e-9)


@given(rewards, st.randoms())
def test_reordering_the_group_reorders_the_advantages_exactly(group: list[float], random) -> None:
    order = list(range(len(group)))
    random.shuffle(order)
    advantages = grpo_advantages(group)
    assert grpo_advantages([group[i] for i in order]) == [advantages[i] for i in order]
