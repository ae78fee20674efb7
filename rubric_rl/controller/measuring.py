"""Held-out answers scored by more than the rubrics in force: the run's first rubrics, and gold.

The answers are those of the evaluation, so the values of one answer can be compared. What
comes out here is logged and decides when to stop and what is best. It is in no reward and in
no answer that a proposer sees.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubric_rl.config.schema import Config
from rubric_rl.controller.assembly import judged
from rubric_rl.refinement.interfaces import Judges
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Group, JudgedSample, JudgeRequest, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Rubrics, and who judges by them."""

    rubrics: RubricSet
    """Of the held-out prompts at least; they never change."""
    judges: Judges
    is_own_judge: bool = False
    """Another judge than the evaluation's: its verdicts on an equal rubric can't be taken over."""
    is_paid_apart: bool = False
    """What it costs is not in the account of the run's judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldParts:
    """What gold is measured with."""

    rubrics: RubricSet
    """Of the held-out prompts."""
    judges: Judges | None = None
    """None: the run's judges."""
    shares_account: bool = False
    """These judges spend from the account of the run's judges, whose figures have it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a measure says of the samples of an evaluation."""

    rewards: Mapping[tuple[str, int], float]
    """Of scored samples, by prompt id and sample index."""
    coverage_mean: float | None
    """Over all samples; None without a measure."""
    usd: float

    @property
    def by_prompt(self) -> dict[str, float]:
        """The mean reward of each prompt with a scored sample."""
        rewards: dict[str, list[float]] = {}
        for (prompt_id, _), reward in self.rewards.items():
            rewards.setdefault(prompt_id, []).append(reward)
        return {prompt_id: statistics.fmean(own) for prompt_id, own in rewards.items()}

    @property
    def mean(self) -> float | None:
        """The mean over prompts; None if no sample was scored."""
        means = self.by_prompt.values()
        return statistics.fmean(means) if means else None


NOT_MEASURED = Measured(rewards={}, coverage_mean=None, usd=0.0)


async def measured(
    config: Config,
    prompts: Sequence[Prompt],
    groups: Sequence[Group],
    measure: Measure | None,
) -> Measured:
    """Score the samples of `groups`, which are those of `prompts` in order, by a measure."""
    if measure is None:
        return NOT_MEASURED
    pairs = zip(prompts, groups, strict=True)
    scored = await asyncio.gather(*(_scored(config, p, group, measure) for p, group in pairs))
    samples = [sample for own, _ in scored for sample in own]
    return Measured(
        rewards={
            (s.sample.prompt_id, s.sample.sample_index): s.score.value
            for s in samples
            if s.score.value is not None
        },
        coverage_mean=statistics.fmean(s.score.coverage for s in samples),
        usd=sum(usd for _, usd in scored),
    )


async def _scored(
    config: Config, prompt: Prompt, group: Group, measure: Measure
) -> tuple[Sequence[JudgedSample], float]:
    """One prompt's samples under the measure's rubric, and what judging them again cost."""
    rubric = measure.rubrics.of(prompt.prompt_id)
    samples = group.scored + group.unscored
    if rubric.rubric_id == group.rubric.rubric_id and not measure.is_own_judge:
        return samples, 0.0
    requests = [JudgeRequest(record=prompt.record, rubric=rubric, sample=s.sample) for s in samples]
    judgements = await asyncio.gather(*(measure.judges.judge(request) for request in requests))
    again = [
        judged(s.sample, judgement, rubric, config.rubrics)
        for s, judgement in zip(samples, judgements, strict=True)
    ]
    return again, sum(judgement.usage.cost_usd for judgement in judgements)
