"""The score of HealthBench, by the rule of its authors' code (simple-evals).

    answer:     points of the met criteria, signed, over the positive points of all; at most
                1, and below 0 where faults outweigh the rest
    benchmark:  mean over answers, clipped to [0, 1] once, after the mean
    std:        deviation of that clipped mean over 1000 resamples of the answers

For each tag of an example (`theme:...`) the same over the examples that have it. For each tag
of a criterion (`axis:...`, `level:...`) the answer's score over its criteria with that tag
alone, where at least one of them has positive points; then as above.

Our departures: UNKNOWN verdicts leave the score (`evaluation.benchmark`), where the authors'
code asks for ever; and an interval over prompts, unclipped, is given beside the std, since
several answers to one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rubric_rl.evaluation.benchmark import (
    Coverage,
    GradedAnswer,
    Grader,
    OfficialGrader,
    bootstrap_std,
    coverage_of,
    grader_of,
    mean_by_prompt,
)
from rubric_rl.evaluation.labels import NO_LABELS, Labels
from rubric_rl.judging.agreement import Estimate

FORMAT = "rubric_rl.healthbench/1"
OFFICIAL = OfficialGrader(model="gpt-4.1-2025-04-14", shows_points=True)
NUM_RESAMPLES = 1000
"""As in the authors' code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedMean:
    """A score as HealthBench reports it."""

    score: float
    bootstrap_std: float
    num: int
    """Scored answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthBenchScore:
    """All figures of one evaluation."""

    format: str
    overall: ClippedMean | None
    """None: no answer was scored."""
    mean: Estimate
    """Unclipped, with its 95 % interval over prompts."""
    by_example_tag: dict[str, ClippedMean]
    by_criterion_tag: dict[str, ClippedMean]
    num_below_0: int
    """Answers with a score below 0."""
    coverage: Coverage
    grader: Grader
    labels: Labels = NO_LABELS


def healthbench_score(
    answers: Sequence[GradedAnswer],
    example_tags: Mapping[str, Sequence[str]],
    *,
    num_prompts_in_file: int,
    min_coverage: float,
    seed: int,
) -> HealthBenchScore:
    """Score graded answers (at least one); `example_tags` are by prompt."""
    scores = [(a, a.scored("signed_points", min_coverage)) for a in answers]
    known = [(a.row.prompt_id, value) for a, value in scores if value is not None]
    themes: dict[str, list[float]] = {}
    for prompt_id, value in known:
        for tag in example_tags.get(prompt_id, ()):
            themes.setdefault(tag, []).append(value)
    return HealthBenchScore(
        format=FORMAT,
        overall=clipped_mean([value for _, value in known], seed=seed) if known else None,
        mean=mean_by_prompt(known, seed=seed),
        by_example_tag=_clipped_means(themes, seed),
        by_criterion_tag=_clipped_means(_scores_by_tag(answers, min_coverage), seed),
        num_below_0=sum(value < 0 for _, value in known),
        coverage=coverage_of(answers, num_prompts_in_file, len(known)),
        grader=grader_of([answer.row for answer in answers], OFFICIAL),
    )


def clipped_mean(values: Sequence[float], *, seed: int) -> ClippedMean:
    """The mean of answers' scores (at least one), clipped to [0, 1], and its bootstrap std."""
    return ClippedMean(
        score=float(np.clip(np.mean(values), 0.0, 1.0)),
        bootstrap_std=bootstrap_std(
            values, lambda drawn: np.clip(drawn.mean(axis=1), 0, 1), num=NUM_RESAMPLES, seed=seed
        ),
        num=len(values),
    )


def _clipped_means(by_tag: Mapping[str, Sequence[float]], seed: int) -> dict[str, ClippedMean]:
    return {tag: clipped_mean(by_tag[tag], seed=seed) for tag in sorted(by_tag)}


def _scores_by_tag(answers: Sequence[GradedAnswer], min_coverage: float) -> dict[str, list[float]]:
    """Scores under the criteria of each tag, which count only with something to gain."""
    by_tag: dict[str, list[float]] = {}
    for answer in answers:
        tags = dict.fromkeys(tag for c in answer.rubric.criteria for tag in c.tags)
        for tag in tags:
            criteria = [c for c in answer.rubric.criteria if tag in c.tags]
            if all(criterion.polarity == -1 for criterion in criteria):
                continue
            value = answer.only(criteria).scored("signed_points", min_coverage)
            if value is not None:
                by_tag.setdefault(tag, []).append(value)
    return by_tag
