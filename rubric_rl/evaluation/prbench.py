"""The two means of PRBench, by its authors' code. With p the signed points of met criteria:

    mean_normalized   mean of (p - least) / (most - least), least the sum of the negative weights
                      and most that of the positive ones; in [0, 1]
    mean_clipped      mean of p / most; the name is the code's, which clips nothing: an answer
                      can be below 0, and so can the mean

The first is this project's `weighted_share`, in which an unmet fault earns its weight, and
the second its `signed_points`. The paper "Chasing the Tail" doesn't say which one it reports.
"std" is that over answers, as in the code.

Our departure: a verdict that failed is UNKNOWN and leaves the score (`evaluation.benchmark`).
The authors' code takes it for "not met", which is a gain where the criterion is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rubric_rl.data.records import LoadedPrompt
from rubric_rl.evaluation.benchmark import (
    Coverage,
    GradedAnswer,
    Grader,
    OfficialGrader,
    coverage_of,
    grader_of,
    mean_by_prompt,
)
from rubric_rl.evaluation.labels import NO_LABELS, Labels
from rubric_rl.judging.agreement import Estimate
from rubric_rl.rubrics.reward import RewardName

FORMAT = "rubric_rl.prbench/1"
OFFICIAL = OfficialGrader(model="o4-mini", shows_points=False)
MEANS = ("mean_clipped", "mean_normalized")
"""The first is the one that tables and reports take unless they are told."""
_NO_CATEGORY = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Both means over the same answers."""

    mean_normalized: Estimate
    mean_clipped: Estimate
    std_normalized: float | None
    std_clipped: float | None

    def named(self, mean: str) -> Estimate:
        """One of MEANS."""
        return {"mean_clipped": self.mean_clipped, "mean_normalized": self.mean_normalized}[mean]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrbenchScore:
    """All figures of one evaluation."""

    format: str
    overall: Means
    by_field: dict[str, Means]
    """Such as `finance`."""
    by_category: dict[str, Means]
    """Each answer under its criteria of one category alone, where one of them is positive."""
    coverage: Coverage
    grader: Grader
    labels: Labels = NO_LABELS


def prbench_score(
    answers: Sequence[GradedAnswer],
    prompts: Mapping[str, LoadedPrompt],
    *,
    min_coverage: float,
    seed: int,
) -> PrbenchScore:
    """Score graded answers (at least one); `prompts` are all of the benchmark's file."""
    fields: dict[str, list[GradedAnswer]] = {}
    categories: dict[str, list[GradedAnswer]] = {}
    for answer in answers:
        fields.setdefault(prompts[answer.row.prompt_id].record.domain, []).append(answer)
        for category, part in _by_category(answer).items():
            categories.setdefault(category, []).append(part)
    num_scored = sum(a.scored("signed_points", min_coverage) is not None for a in answers)
    return PrbenchScore(
        format=FORMAT,
        overall=_means(answers, min_coverage, seed),
        by_field={name: _means(fields[name], min_coverage, seed) for name in sorted(fields)},
        by_category={n: _means(categories[n], min_coverage, seed) for n in sorted(categories)},
        coverage=coverage_of(answers, len(prompts), num_scored),
        grader=grader_of([answer.row for answer in answers], OFFICIAL),
    )


def _by_category(answer: GradedAnswer) -> dict[str, GradedAnswer]:
    criteria = answer.rubric.criteria
    names = dict.fromkeys(c.axis or _NO_CATEGORY for c in criteria)
    parts = {n: [c for c in criteria if (c.axis or _NO_CATEGORY) == n] for n in names}
    return {
        name: answer.only(part)
        for name, part in parts.items()
        if any(criterion.polarity == 1 for criterion in part)
    }


def _means(answers: Sequence[GradedAnswer], min_coverage: float, seed: int) -> Means:
    # Both means are over the answers that have both, so that they can be compared.
    known = [a for a in answers if a.scored("signed_points", min_coverage) is not None]

    def values(reward: RewardName) -> list[tuple[str, float]]:
        found = [(a.row.prompt_id, a.scored(reward, min_coverage)) for a in known]
        return [(prompt_id, value) for prompt_id, value in found if value is not None]

    normalized, clipped = values("weighted_share"), values("signed_points")
    return Means(
        mean_normalized=mean_by_prompt(normalized, seed=seed),
        mean_clipped=mean_by_prompt(clipped, seed=seed),
        std_normalized=_std(normalized),
        std_clipped=_std(clipped),
    )


def _std(values: Sequence[tuple[str, float]]) -> float | None:
    return float(np.std([value for _, value in values])) if values else None
