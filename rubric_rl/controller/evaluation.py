"""Held-out evaluation: the reward of the current policy on prompts that it isn't trained on.

Every evaluation of a run draws each sample from the same seed, so that two
evaluations differ by the policy and not by luck. The interval here is over
prompts at one step; comparing two steps is a paired question, which
`observability.report` answers from the rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rubric_rl.config.schema import Config
from rubric_rl.controller.criteria_stats import criteria_stats
from rubric_rl.controller.judging_tally import JudgingTally
from rubric_rl.controller.measuring import Measure, Measured, measured
from rubric_rl.controller.money import cost_usd
from rubric_rl.controller.state import TrainState
from rubric_rl.controller.streaming import GroupStreamer, RolloutPlan
from rubric_rl.evaluation.overoptimisation import Gold
from rubric_rl.observability.records import CriterionStats, SampleRow, sample_row
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Group, Prompt

# Half width of a 95 % interval in standard errors, by the normal approximation.
_Z95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good the policy of one step is."""

    reward_mean: float | None
    """Mean over prompts of each one's mean reward; None if no sample was scored."""
    reward_ci95: float | None
    """Half width of its interval; None with fewer than two prompts."""
    coverage_mean: float
    unscored_frac: float
    seconds: float
    cost_usd: float
    """What judging it cost."""
    rows: tuple[SampleRow, ...]
    criteria: tuple[CriterionStats, ...]
    groups: tuple[Group, ...] = ()
    anchor_mean: float | None = None
    """The same mean under the rubrics that the run began with; None without a scored sample.

    A reward that drops after a refinement under the rubrics in force, and not under these,
    met a harder test.
    """
    gold: Gold | None = None
    """By the gold rubrics and judge; None if there are none, or no sample was scored by them."""
    gold_coverage_mean: float | None = None
    gold_usd: float = 0.0
    """What of the cost is not in the account of the run's judges."""

    @property
    def metrics(self) -> dict[str, float]:
        """What has a value, by its name in `observability.metrics`."""
        named = {
            "eval/reward_mean": self.reward_mean,
            "eval/reward_ci95": self.reward_ci95,
            "eval/anchor_reward_mean": self.anchor_mean,
            "eval/gold_mean": None if self.gold is None else self.gold.value,
            "eval/gold_ci95": self._gold_ci95,
            "eval/gold_coverage_mean": self.gold_coverage_mean,
            "eval/coverage_mean": self.coverage_mean,
            "eval/unscored_frac": self.unscored_frac,
            "time/eval_s": self.seconds,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def _gold_ci95(self) -> float | None:
        if self.gold is None or self.gold.standard_error is None:
            return None
        return _Z95 * self.gold.standard_error

    def recorded_in(self, state: TrainState, config: Config) -> TrainState:
        """`state` once it is evaluated."""
        metric = config.best_metric
        state = state.after_eval(self.metrics.get(metric), metric=metric, cost_usd=self.cost_usd)
        return state.after_gold(
            self.gold, confidence=config.gold.confidence, cost_usd=self.gold_usd
        )


async def evaluate(
    config: Config,
    prompts: Sequence[Prompt],
    rubrics: RubricSet,
    streamer: GroupStreamer,
    *,
    step: int,
    anchor: Measure | None = None,
    gold: Measure | None = None,
) -> Evaluation:
    """Roll out and judge the held-out prompts (at least one) by the policy of `step`.

    The same samples are judged by `anchor`, the rubrics that the run began with, and by
    `gold` too, where they are given.
    """
    plan = RolloutPlan(
        purpose="eval",
        epoch=0,
        samples_per_prompt=config.run.eval_samples_per_prompt,
        policy_versions=range(step, step + 1),
    )
    result = await streamer.run(prompts, plan)
    samples = [s for group in result.groups for s in group.scored + group.unscored]
    tally = JudgingTally.of(samples)
    anchored = await measured(config, prompts, result.groups, anchor)
    by_gold = await measured(config, prompts, result.groups, gold)
    prompt_means = [statistics.fmean(g.rewards_G) for g in result.groups if g.scored]
    return Evaluation(
        reward_mean=statistics.fmean(prompt_means) if prompt_means else None,
        reward_ci95=half_width(prompt_means),
        coverage_mean=statistics.fmean(s.score.coverage for s in samples),
        unscored_frac=tally.num_unscored / tally.num_samples,
        seconds=result.timing.rollout_s + result.timing.judge_wait_s,
        cost_usd=cost_usd(samples) + anchored.usd + by_gold.usd,
        rows=_rows(prompts, result.groups, rubrics, step, anchored, by_gold),
        criteria=criteria_stats(result.groups, rubrics, step=step, phase="eval"),
        groups=result.groups,
        anchor_mean=anchored.mean,
        gold=Gold.of_prompts(by_gold.by_prompt) if by_gold.rewards else None,
        gold_coverage_mean=by_gold.coverage_mean,
        gold_usd=by_gold.usd if gold is not None and gold.is_paid_apart else 0.0,
    )


def half_width(prompt_means: Sequence[float]) -> float | None:
    """Half width of the 95 % interval of the mean over prompts."""
    if len(prompt_means) < 2:
        return None
    return _Z95 * statistics.stdev(prompt_means) / math.sqrt(len(prompt_means))


def _rows(
    prompts: Sequence[Prompt],
    groups: Sequence[Group],
    rubrics: RubricSet,
    step: int,
    anchored: Measured,
    by_gold: Measured,
) -> tuple[SampleRow, ...]:
    rows = (
        sample_row(
            judged_sample,
            record=prompt.record,
            rubric=rubrics.of(prompt.prompt_id),
            advantage=None,
            step=step,
            phase="eval",
        )
        for prompt, group in zip(prompts, groups, strict=True)
        for judged_sample in group.scored + group.unscored
    )
    return tuple(
        replace(
            row,
            anchor_reward=anchored.rewards.get((row.prompt_id, row.sample_index)),
            gold_reward=by_gold.rewards.get((row.prompt_id, row.sample_index)),
        )
        for row in rows
    )
