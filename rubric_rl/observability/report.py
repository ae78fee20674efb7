"""The closing report: what a run changed on the held-out prompts.

    samples/eval_*.jsonl -> EvalComparison -> report.md

Everything is computed from the rows on disk, so a resumed run reports the same
as an undisturbed one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from rubric_rl.errors import DataError
from rubric_rl.observability.records import CriterionRow, SampleRow, read_rows
from rubric_rl.types import VerdictValue

NUM_RESAMPLES = 10_000
_CHUNK = 100
NUM_CRITERIA_SHOWN = 5

_EVAL_FILE = re.compile(r"eval_(\d{6,})\.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over prompts with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionChange:
    """How often one criterion of one prompt came out well, before and after.

    Rates are over judged samples. "Well" is met for a criterion that is good to
    meet and unmet for one that is bad to meet, so a positive change is a gain.
    """

    prompt_id: str
    cid: str
    text: str
    weight: float
    good_before: float
    good_after: float

    @property
    def change(self) -> float:
        return self.good_after - self.good_before


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplePair:
    """One sample of a prompt before and the sample with the same index after."""

    title: str
    before: SampleRow
    after: SampleRow


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalComparison:
    """Held-out evaluation before and after, over the prompts that both scored."""

    step_before: int
    step_after: int
    num_prompts: int
    num_prompts_left_out: int
    """Prompts without a scored sample before or after."""
    num_samples_before: int
    num_samples_after: int
    is_anchored: bool
    """Rewards are those under the rubrics that the run began with, before and after."""
    num_unscored_before: int
    num_unscored_after: int
    before: Interval
    after: Interval
    difference: Interval
    """Paired: after minus before, prompt by prompt."""
    most_gained: tuple[CriterionChange, ...]
    most_lost: tuple[CriterionChange, ...]
    examples: tuple[ExamplePair, ...]


def compare(
    before: Sequence[SampleRow], after: Sequence[SampleRow], *, seed: int
) -> EvalComparison:
    """Compare two evaluations of the same prompts; `seed` is that of the bootstrap.

    Raises:
        DataError: no prompt has a scored sample both before and after.
    """
    is_anchored = any(row.anchor_reward is not None for row in after)
    if is_anchored:
        before, after = _under_first_rubrics(before), _under_first_rubrics(after)
    means_before, means_after = _prompt_means(before), _prompt_means(after)
    paired = sorted(means_before.keys() & means_after.keys())
    prompts = {row.prompt_id for row in (*before, *after)}
    if not paired:
        raise DataError(
            f"nothing to compare: of {len(prompts)} held-out prompts none has a scored sample "
            "both before and after; the judge/unknown metrics say why samples are unscored"
        )
    rewards_P2 = np.array([[means_before[p], means_after[p]] for p in paired])
    intervals = _bootstrap(rewards_P2, seed)
    changes = _criterion_changes(before, after)
    return EvalComparison(
        step_before=before[0].step,
        step_after=after[0].step,
        num_prompts=len(paired),
        num_prompts_left_out=len(prompts) - len(paired),
        num_samples_before=len(before),
        num_samples_after=len(after),
        num_unscored_before=_num_unscored(before),
        num_unscored_after=_num_unscored(after),
        before=intervals[0],
        after=intervals[1],
        difference=intervals[2],
        most_gained=_most(changes, sign=1),
        most_lost=_most(changes, sign=-1),
        examples=_examples(before, after),
        is_anchored=is_anchored,
    )


def _under_first_rubrics(rows: Sequence[SampleRow]) -> list[SampleRow]:
    """The rows with the rewards that they have under the rubrics that the run began with."""
    return [replace(row, reward=row.anchor_reward) for row in rows]


def compare_run(run_dir: Path, *, seed: int) -> EvalComparison:
    """Compare the first and the last evaluation that a run folder holds.

    Raises:
        DataError: fewer than two evaluations, an unreadable file, or nothing to compare.
    """
    files = [path for path in (run_dir / "samples").glob("*.jsonl") if _EVAL_FILE.match(path.name)]
    files.sort(key=lambda path: int(path.stem.removeprefix("eval_")))
    if len(files) < 2:
        raise DataError(
            f"{str(run_dir / 'samples')!r} holds {len(files)} evaluations (eval_*.jsonl) but a "
            "comparison needs two: let the run finish its first evaluation and one more"
        )
    return compare(read_rows(files[0]), read_rows(files[-1]), seed=seed)


# ----------------------------------------------------------------------------
# Rewards


def _prompt_means(rows: Iterable[SampleRow]) -> dict[str, float]:
    rewards: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.reward is not None:
            rewards[row.prompt_id].append(row.reward)
    return {prompt_id: fmean(values) for prompt_id, values in rewards.items()}


def _num_unscored(rows: Iterable[SampleRow]) -> int:
    return sum(1 for row in rows if row.reward is None)


def _bootstrap(rewards_P2: np.ndarray, seed: int) -> tuple[Interval, Interval, Interval]:
    """Before, after and their difference, from resamples of whole prompts.

    A resample draws a prompt with its two means together. Prompts differ far
    more than the same prompt before and after, and pairing takes that out.
    """
    columns_P3 = np.column_stack([rewards_P2, rewards_P2[:, 1] - rewards_P2[:, 0]])
    num_prompts = len(columns_P3)
    rng = np.random.default_rng(seed)
    # In chunks, so that memory does not grow with the number of resamples.
    chunks = [
        columns_P3[rng.integers(num_prompts, size=(_CHUNK, num_prompts))].mean(axis=1)
        for _ in range(NUM_RESAMPLES // _CHUNK)
    ]
    resampled = np.concatenate(chunks)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    means = columns_P3.mean(axis=0)
    before, after, difference = (
        Interval(mean=float(means[i]), low=float(low[i]), high=float(high[i])) for i in range(3)
    )
    return before, after, difference


# ----------------------------------------------------------------------------
# Criteria

_Key = tuple[str, str, str]
"""Prompt id, cid and text: a criterion that was rewritten is another one."""


def _criterion_changes(
    before: Sequence[SampleRow], after: Sequence[SampleRow]
) -> list[CriterionChange]:
    weights, good_before = _good_rates(before)
    _, good_after = _good_rates(after)
    return [
        CriterionChange(
            prompt_id=key[0],
            cid=key[1],
            text=key[2],
            weight=weights[key],
            good_before=good_before[key],
            good_after=good_after[key],
        )
        for key in sorted(good_before.keys() & good_after.keys())
    ]


def _good_rates(rows: Iterable[SampleRow]) -> tuple[dict[_Key, float], dict[_Key, float]]:
    """Weight of each criterion that was judged at all, and how often it came out well."""
    weights: dict[_Key, float] = {}
    outcomes: dict[_Key, list[bool]] = defaultdict(list)
    for row in rows:
        for criterion in row.criteria:
            if criterion.verdict in (VerdictValue.MET, VerdictValue.UNMET):
                key = (row.prompt_id, criterion.cid, criterion.text)
                weights[key] = criterion.weight
                outcomes[key].append(is_good(criterion))
    return weights, {key: fmean(values) for key, values in outcomes.items()}


def is_good(criterion: CriterionRow) -> bool:
    """Whether a judged criterion came out well for the answer."""
    return (criterion.verdict is VerdictValue.MET) == (criterion.polarity == 1)


def _most(changes: Sequence[CriterionChange], *, sign: int) -> tuple[CriterionChange, ...]:
    """The largest changes of one sign; of equal ones those that weigh more."""
    moved = [change for change in changes if sign * change.change > 0]
    moved.sort(key=lambda c: (-sign * c.change, -c.weight, c.prompt_id, c.cid))
    return tuple(moved[:NUM_CRITERIA_SHOWN])


# ----------------------------------------------------------------------------
# Examples


def _examples(before: Sequence[SampleRow], after: Sequence[SampleRow]) -> tuple[ExamplePair, ...]:
    """The pair with the largest gain and the median pair (one only if there is no other)."""
    later = {(row.prompt_id, row.sample_index): row for row in after}
    gains: list[tuple[float, str, int, SampleRow, SampleRow]] = []
    for old in before:
        new = later.get((old.prompt_id, old.sample_index))
        if new is not None and old.reward is not None and new.reward is not None:
            gain = new.reward - old.reward
            gains.append((gain, old.prompt_id, old.sample_index, old, new))
    gains.sort(key=lambda entry: entry[:3])
    titles = {len(gains) - 1: "largest gain", (len(gains) - 1) // 2: "median"}
    if len(gains) == 1:
        titles = {0: "the only pair"}
    return tuple(
        ExamplePair(title=title, before=gains[i][3], after=gains[i][4])
        for i, title in titles.items()
        if gains
    )
