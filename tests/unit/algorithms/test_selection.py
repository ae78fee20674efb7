"""Which groups and samples a step learns from, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rubric_rl.algorithms.selection import (
    has_target,
    is_target,
    is_zero_variance,
    length_penalty,
    with_length_penalty,
)
from rubric_rl.config.algorithm import AlgorithmConfig
from rubric_rl.types import FinishReason, Group

from .builders import judged_group, make_rubric, make_sample, reward_group

PENALTY = AlgorithmConfig(overlong="penalty", overlong_buffer_tokens=4)


def with_lengths(group: Group, *lengths: int, finish_reason: FinishReason = "stop") -> Group:
    scored = tuple(
        replace(s, sample=make_sample(i, tokens=range(length), finish_reason=finish_reason))
        for i, (s, length) in enumerate(zip(group.scored, lengths, strict=True))
    )
    return replace(group, scored=scored)


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    # Lmax 10, buffer 4: nothing up to 6 tokens, then a quarter for each.
    [(1, 0), (6, 0), (7, -0.25), (9, -0.75), (10, -1)],
)
def test_the_length_penalty_rises_over_the_buffer(num_tokens: int, expected: float) -> None:
    assert length_penalty(num_tokens, buffer_tokens=4, max_new_tokens=10) == expected


def test_the_penalty_changes_rewards_and_nothing_else() -> None:
    group = with_lengths(reward_group(1.0, 0.5, 0.5), 3, 8, 10)
    penalized = with_length_penalty(group, PENALTY, max_new_tokens=10)
    assert penalized.rewards_G == [1.0, 0.0, -0.5]
    assert [s.sample for s in penalized.scored] == [s.sample for s in group.scored]
    assert with_length_penalty(group, AlgorithmConfig(), max_new_tokens=10) is group


def test_the_buffer_is_a_fifth_of_the_longest_unless_it_is_set() -> None:
    group = with_lengths(reward_group(1.0, 1.0, 1.0), 40, 45, 50)
    config = AlgorithmConfig(overlong="penalty")
    penalized = with_length_penalty(group, config, max_new_tokens=50)
    assert penalized.rewards_G == [1.0, 0.5, 0.0]


def test_a_group_has_zero_variance_when_its_rewards_are_equal() -> None:
    config = AlgorithmConfig()
    assert is_zero_variance(reward_group(0.5, 0.5), config, max_new_tokens=10)
    assert not is_zero_variance(reward_group(0.5, 0.5, 0.6), config, max_new_tokens=10)


def test_a_length_penalty_can_tell_equal_rewards_apart() -> None:
    group = with_lengths(reward_group(0.5, 0.5), 3, 10)
    assert not is_zero_variance(group, PENALTY, max_new_tokens=10)
    assert is_zero_variance(group, PENALTY, max_new_tokens=99)


def test_for_gdpo_it_is_the_verdicts_that_must_be_equal() -> None:
    rubric, config = make_rubric(1.0, 1.0), AlgorithmConfig(advantage="gdpo")
    apart = judged_group(rubric, "+-", "-+")
    assert apart.rewards_G == [0.5, 0.5]
    assert not is_zero_variance(apart, config, max_new_tokens=10)
    assert is_zero_variance(judged_group(rubric, "+-", "+-", "+?"), config, max_new_tokens=10)


def test_truncated_samples_are_no_targets_where_they_are_masked() -> None:
    cut = with_lengths(reward_group(1.0, 0.0), 3, 3, finish_reason="length")
    mask = AlgorithmConfig(overlong="mask")
    assert has_target(cut, AlgorithmConfig()) and not has_target(cut, mask)
    assert has_target(reward_group(1.0, 0.0), mask)
    assert is_target(cut.scored[0], 1.0, AlgorithmConfig())
    assert not is_target(cut.scored[0], 1.0, mask)


def test_rejected_samples_are_no_targets() -> None:
    sample = reward_group(1.0).scored[0]
    rft = AlgorithmConfig(advantage="best_of_group", policy_loss="rft")
    assert is_target(sample, 1.0, rft) and not is_target(sample, 0.0, rft)
    assert is_target(sample, 0.0, AlgorithmConfig())
