"""Split a step's samples among ranks and micro-batches by a token budget.

A pure function of the batch, so every rank works out the whole plan alone and
no rank waits for another. All ranks get the same number of micro-batches
(ZeRO's collectives run once in each), and each micro-batch holds samples of
similar length, so little is spent on padding.
"""

from __future__ import annotations

from collections.abc import Sequence

MicroBatch = tuple[int, ...]
"""Indices into the step's samples. Empty on a rank that has run out of samples while
others have not: it still takes part in the collectives, with a batch of weight zero."""


def plan_micro_batches(
    lengths: Sequence[int], *, num_ranks: int, token_budget: int
) -> list[list[MicroBatch]]:
    """Plan `[num_ranks][num_micro_batches]` tuples of sample indices.

    Each sample is in exactly one micro-batch. A micro-batch of `n` samples costs
    `n * longest`, at most `token_budget`. Ranks differ by at most one in the
    number of samples.

    Args:
        lengths: tokens of each sample, prompt and completion.
        num_ranks: learner ranks; at most `len(lengths)`.
        token_budget: padded tokens of one micro-batch; at least `max(lengths)`.
    """
    assert num_ranks <= len(lengths), "a rank would have no sample"
    assert max(lengths) <= token_budget, "a sample is longer than the token budget"
    # Longest first, so that the largest allocation comes first and a budget
    # that does not fit memory fails in the first micro-batch.
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    shares = [order[rank::num_ranks] for rank in range(num_ranks)]
    plans = [_fill(share, lengths, token_budget) for share in shares]
    num_micro_batches = max(len(plan) for plan in plans)
    return [_split_to(plan, num_micro_batches) for plan in plans]


def _fill(share: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[MicroBatch]:
    """Greedy cut of a length-sorted share: the first sample of each cut is its longest."""
    plan: list[list[int]] = []
    for index in share:
        if plan and (len(plan[-1]) + 1) * lengths[plan[-1][0]] <= token_budget:
            plan[-1].append(index)
        else:
            plan.append([index])
    return [tuple(micro_batch) for micro_batch in plan]


def _split_to(plan: list[MicroBatch], num_micro_batches: int) -> list[MicroBatch]:
    """Split the largest micro-batches in two until the count is reached."""
    plan = list(plan)
    while len(plan) < num_micro_batches:
        largest = max(range(len(plan)), key=lambda i: len(plan[i]))
        whole = plan[largest]
        if len(whole) == 1:
            break
        half = (len(whole) + 1) // 2
        plan[largest : largest + 1] = [whole[:half], whole[half:]]
    return plan + [()] * (num_micro_batches - len(plan))
