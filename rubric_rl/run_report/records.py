"""What a report is made from: one run folder, read.

run folder --read_run--> Run --page--> HTML
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.observability.records import SampleRow
from rubric_rl.observability.report import EvalComparison
from rubric_rl.refinement.records import Revision
from rubric_rl.run_report.settings import Settings
from rubric_rl.types import VerdictValue


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One line of `metrics.jsonl`."""

    step: int
    time: float
    """Seconds since 1970, when it was written."""
    values: Mapping[str, float]
    """Metrics by name; one without a value in this step is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A metric at a step."""

    step: int
    value: float
    half_width: float | None = None
    """Of its 95 % interval; None where none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictChange:
    """One criterion on an early and on a late answer to the same prompt."""

    cid: str
    before_text: str | None
    """None: the rubric of then didn't have it."""
    after_text: str | None
    before: VerdictValue | None
    after: VerdictValue | None
    weight: float
    polarity: int
    reason: str
    """The judge's, of the late verdict if there is one."""

    @property
    def is_changed(self) -> bool:
        return self.before is not self.after or self.before_text != self.after_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedExample:
    """The same sample of a held-out prompt in the first and in the last evaluation."""

    before: SampleRow
    after: SampleRow
    gain: float
    """Reward after minus before, under the run's first rubrics where they are known."""
    is_anchored: bool
    """Whether they are."""
    verdicts: tuple[VerdictChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLine:
    """One checkpoint of a run."""

    step: int
    problem: str | None
    """Why it can't be used; None: it is complete."""
    metric: str | None
    value: float | None
    """Its held-out evaluation; None if it wasn't evaluated."""


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
    examples: tuple[ChangedExample, ...]
    revisions: Mapping[str, Sequence[Revision]] | None
    """Histories of rubrics by prompt; None: the run keeps no rubric store."""
    checkpoints: tuple[CheckpointLine, ...]
    notes: tuple[str, ...]
    """What is missing or could not be read, in words."""

    def points(self, metric: str) -> tuple[Point, ...]:
        """The steps at which a metric has a value, with its interval if one is known."""
        return tuple(
            Point(
                step=line.step,
                value=line.values[metric],
                half_width=self._half_width(line, metric),
            )
            for line in self.steps
            if metric in line.values
        )

    def _half_width(self, line: StepMetrics, metric: str) -> float | None:
        if metric == "eval/anchor_reward_mean":
            return self.anchor_half_widths.get(line.step)
        name = _HALF_WIDTHS.get(metric)
        return None if name is None else line.values.get(name)

    def last(self, metric: str) -> float | None:
        """The newest value; None if there is none."""
        points = self.points(metric)
        return points[-1].value if points else None

    @property
    def num_steps(self) -> int:
        """Completed optimizer steps."""
        return self.steps[-1].step

    @property
    def refined_at(self) -> tuple[int, ...]:
        """Steps after which rubrics were refined."""
        return tuple(point.step for point in self.points("rubric/refined_prompts"))


_HALF_WIDTHS: Mapping[str, str] = {
    "eval/reward_mean": "eval/reward_ci95",
    "eval/gold_mean": "eval/gold_ci95",
}
"""A metric and the one that is half the width of its interval."""
