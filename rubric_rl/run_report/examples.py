"""The answers that changed most between two evaluations, criterion by criterion."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.observability.records import CriterionRow, SampleRow
from rubric_rl.run_report.records import ChangedExample, VerdictChange

NUM_GAINS = 3
NUM_LOSSES = 2


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


def _pairs(before: Sequence[SampleRow], after: Sequence[SampleRow]) -> list[ChangedExample]:
    later = {(row.prompt_id, row.sample_index): row for row in after}
    # As in the closing report: under rubrics that stay the same, where there are such.
    is_anchored = any(row.anchor_reward is not None for row in after)
    found: list[ChangedExample] = []
    for old in sorted(before, key=lambda row: (row.prompt_id, row.sample_index)):
        new = later.get((old.prompt_id, old.sample_index))
        if new is None:
            continue
        rewards = (
            (old.anchor_reward, new.anchor_reward) if is_anchored else (old.reward, new.reward)
        )
        if rewards[0] is not None and rewards[1] is not None:
            found.append(
                ChangedExample(
                    before=old,
                    after=new,
                    gain=rewards[1] - rewards[0],
                    is_anchored=is_anchored,
                    verdicts=verdict_changes(old.criteria, new.criteria),
                )
            )
    return found


def verdict_changes(
    before: Sequence[CriterionRow], after: Sequence[CriterionRow]
) -> tuple[VerdictChange, ...]:
    """Every criterion of either rubric by its id, in the early order, new ones last."""
    old = {criterion.cid: criterion for criterion in before}
    new = {criterion.cid: criterion for criterion in after}
    cids = [*old, *(cid for cid in new if cid not in old)]
    return tuple(_change(cid, old.get(cid), new.get(cid)) for cid in cids)


def _change(cid: str, old: CriterionRow | None, new: CriterionRow | None) -> VerdictChange:
    current = new or old
    assert current is not None
    return VerdictChange(
        cid=cid,
        before_text=old.text if old else None,
        after_text=new.text if new else None,
        before=old.verdict if old else None,
        after=new.verdict if new else None,
        weight=current.weight,
        polarity=current.polarity,
        reason=current.reason,
    )
