"""The answers that changed most between two evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rubric_rl.observability.records import CriterionRow, SampleRow
from rubric_rl.run_report.records import ChangedExample

NUM_GAINS, NUM_LOSSES = 3, 2


def most_changed(
    before: Sequence[SampleRow], after: Sequence[SampleRow]
) -> tuple[ChangedExample, ...]:
    """The largest gains, then the largest losses; of each prompt its most changed sample alone.

    Samples are paired by prompt and sample index, which have the same seed in every
    evaluation. Unscored ones and those with the same reward are left out.
    """
    by_prompt: dict[str, ChangedExample] = {}
    for example in _pairs(before, after):
        held = by_prompt.get(example.before.prompt_id)
        if held is None or abs(example.gain) > abs(held.gain):
            by_prompt[example.before.prompt_id] = example
    ordered = sorted(by_prompt.values(), key=lambda e: (-e.gain, e.before.prompt_id))
    gains = [example for example in ordered if example.gain > 0]
    losses = [example for example in reversed(ordered) if example.gain < 0]
    return (*gains[:NUM_GAINS], *losses[:NUM_LOSSES])


def _pairs(before: Sequence[SampleRow], after: Sequence[SampleRow]) -> Iterator[ChangedExample]:
    later = {(row.prompt_id, row.sample_index): row for row in after}
    # As in the closing report: under rubrics that stay the same, where there are such.
    is_anchored = any(row.anchor_reward is not None for row in after)
    for old in sorted(before, key=lambda row: (row.prompt_id, row.sample_index)):
        new = later.get((old.prompt_id, old.sample_index))
        if new is None:
            continue
        old_reward = old.anchor_reward if is_anchored else old.reward
        new_reward = new.anchor_reward if is_anchored else new.reward
        if old_reward is not None and new_reward is not None:
            yield ChangedExample(
                before=old,
                after=new,
                gain=new_reward - old_reward,
                criteria=paired(old.criteria, new.criteria),
            )


def paired(
    before: Sequence[CriterionRow], after: Sequence[CriterionRow]
) -> tuple[tuple[CriterionRow | None, CriterionRow | None], ...]:
    """Every criterion of either rubric by its id, in the early order, new ones last."""
    old = {criterion.cid: criterion for criterion in before}
    new = {criterion.cid: criterion for criterion in after}
    return tuple((old.get(cid), new.get(cid)) for cid in dict.fromkeys([*old, *new]))
