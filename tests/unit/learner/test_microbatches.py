"""The split of a step's samples among ranks and micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.learner.microbatches import MicroBatch, plan_micro_batches

Plan = list[list[MicroBatch]]


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Lengths, ranks and a budget that the planner accepts."""
    lengths = draw(st.lists(st.integers(1, 50), min_size=1, max_size=24))
    num_ranks = draw(st.integers(1, min(5, len(lengths))))
    return lengths, num_ranks, draw(st.integers(max(lengths), 200))


def plan_of(problem: tuple[list[int], int, int]) -> Plan:
    lengths, num_ranks, token_budget = problem
    return plan_micro_batches(lengths, num_ranks=num_ranks, token_budget=token_budget)


def cost(micro_batch: Sequence[int], lengths: Sequence[int]) -> int:
    """Tokens with padding."""
    return len(micro_batch) * max((lengths[i] for i in micro_batch), default=0)


@given(problems())
def test_every_sample_is_in_exactly_one_micro_batch(problem: tuple[list[int], int, int]) -> None:
    indices = [i for rank in plan_of(problem) for micro_batch in rank for i in micro_batch]
    assert sorted(indices) == list(range(len(problem[0])))


@given(problems())
def test_every_rank_has_the_same_number_of_micro_batches(
    problem: tuple[list[int], int, int],
) -> None:
    plan = plan_of(problem)
    assert len(plan) == problem[1]
    assert len({len(rank) for rank in plan}) == 1


@given(problems())
def test_no_micro_batch_exceeds_the_token_budget(problem: tuple[list[int], int, int]) -> None:
    lengths, _, token_budget = problem
    costs = [cost(micro_batch, lengths) for rank in plan_of(problem) for micro_batch in rank]
    assert max(costs) <= token_budget


@given(problems())
def test_ranks_differ_by_at_most_one_sample(problem: tuple[list[int], int, int]) -> None:
    counts = [sum(len(micro_batch) for micro_batch in rank) for rank in plan_of(problem)]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1


@given(problems())
def test_the_plan_depends_on_nothing_but_its_arguments(problem: tuple[list[int], int, int]) -> None:
    assert plan_of(problem) == plan_of(problem)


@given(problems())
def test_the_longest_sample_comes_first_on_its_rank(problem: tuple[list[int], int, int]) -> None:
    # So that a budget too large for the memory fails at once and not in mid-step.
    lengths = problem[0]
    assert lengths[plan_of(problem)[0][0][0]] == max(lengths)


def test_one_rank_is_cut_where_the_next_sample_would_exceed_the_budget() -> None:
    # By length: 10 (3), 8 (0), 4 (2), 4 (4), 2 (1). Budget 20:
    #   3 alone costs 10, with 0 it costs 20; a third would make 30 -> cut
    #   2 costs 4, with 4 it costs 8, with 1 it costs 12
    plan = plan_micro_batches([8, 2, 4, 10, 4], num_ranks=1, token_budget=20)
    assert plan == [[(3, 0), (2, 4, 1)]]


def test_a_rank_with_fewer_micro_batches_splits_its_largest() -> None:
    # By length 9 (0), 3 (1), 3 (2), 3 (3): rank 0 gets 0 and 2, rank 1 gets 1 and 3. Budget 9:
    # rank 0 needs two micro-batches, rank 1 only one (2 x 3 = 6), so it is split.
    plan = plan_micro_batches([9, 3, 3, 3], num_ranks=2, token_budget=9)
    assert plan == [[(0,), (2,)], [(1,), (3,)]]


def test_a_rank_that_has_run_out_of_samples_gets_an_empty_micro_batch() -> None:
    # Three samples of 5, budget 5: rank 0 gets 0 and 2 in a micro-batch each, rank 1 only 1.
    plan = plan_micro_batches([5, 5, 5], num_ranks=2, token_budget=5)
    assert plan == [[(0,), (2,)], [(1,), ()]]


def test_equal_lengths_keep_the_order_of_the_batch() -> None:
    plan = plan_micro_batches([7] * 6, num_ranks=2, token_budget=14)
    assert plan == [[(0, 2), (4,)], [(1, 3), (5,)]]


def test_what_the_planner_can_not_satisfy_is_refused() -> None:
    with pytest.raises(AssertionError, match="no sample"):
        plan_micro_batches([3], num_ranks=2, token_budget=10)
    with pytest.raises(AssertionError, match="token budget"):
        plan_micro_batches([3, 11], num_ranks=1, token_budget=10)
