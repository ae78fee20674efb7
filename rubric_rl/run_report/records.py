"""What a report is made from.

run folder --read_run--> Run --page--> HTML
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.evaluation.overoptimisation import Decline
from rubric_rl.observability.records import CriterionRow, SampleRow
from rubric_rl.observability.report import EvalComparison
from rubric_rl.refinement.records import Revision
from rubric_rl.run_report.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One line of `metrics.jsonl`; a metric without a value in this step is missing."""

    step: int
    time: float
    """Seconds since 1970, when it was written."""
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A metric at a step."""

    step: int
    value: float
    half_width: float | None = None
    """Of its 95 % interval; None where none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedExample:
    """The same sample of a held-out prompt in the first and in the last evaluation."""

    before: SampleRow
    after: SampleRow
    gain: float
    """Reward after minus before, under the run's first rubrics where those are known."""
    criteria: tuple[tuple[CriterionRow | None, CriterionRow | None], ...]
    """Early and late, by id; None where the rubric of then doesn't have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run folder, read."""

    label: str
    """Short and unique among the runs of a report."""
    path: Path
    settings: Settings
    environment: Mapping[str, str | None]
    steps: tuple[StepMetrics, ...]
    """In their order; at least one."""
    anchor_half_widths: Mapping[int, float]
    """Step to the half width of the interval of `eval/anchor_reward_mean`."""
    comparison: EvalComparison | None
    """None: fewer than two evaluations, or nothing in them that can be compared."""
    decline: Decline | None
    """What the held-out gold curve says; None: the run has no gold, or it can't be read."""
    examples: tuple[ChangedExample, ...]
    revisions: Mapping[str, Sequence[Revision]] | None
    """Histories of rubrics by prompt; None: the run keeps no rubric store."""
    checkpoints: tuple[tuple[str, str, str], ...]
    """Step, held-out evaluation and state of each, in words."""
    notes: tuple[str, ...]
    """What is missing or could not be read, in words."""

    def points(self, metric: str) -> tuple[Point, ...]:
        """The steps at which a metric has a value, with its interval if one is known."""
        return tuple(
            Point(step=s.step, value=s.values[metric], half_width=self._half_width(s, metric))
            for s in self.steps
            if metric in s.values
        )

    def _half_width(self, line: StepMetrics, metric: str) -> float | None:
        if metric == "eval/anchor_reward_mean":
            return self.anchor_half_widths.get(line.step)
        name = _HALF_WIDTHS.get(metric)
        return None if name is None else line.values.get(name)

    @property
    def refined_at(self) -> tuple[int, ...]:
        """Steps after which rubrics were refined."""
        return tuple(point.step for point in self.points("rubric/refined_prompts"))


# A metric and the one that is half the width of its interval.
_HALF_WIDTHS = {"eval/reward_mean": "eval/reward_ci95", "eval/gold_mean": "eval/gold_ci95"}
