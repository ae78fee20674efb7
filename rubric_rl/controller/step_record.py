"""What is logged of a training step: its metrics by name, and a row for each sample."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubric_rl.controller.criteria_stats import criterion_metrics, llm_verdicts
from rubric_rl.controller.groups import StepGroups
from rubric_rl.controller.interfaces import JudgePoolStatus
from rubric_rl.controller.judging_tally import JudgingTally
from rubric_rl.observability.records import CriterionStats, SampleRow, sample_row
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.rubrics.whole_answer import REWARD_MODEL_MODE
from rubric_rl.types import (
    FailureCause,
    Group,
    JudgedSample,
    JudgeUsage,
    Prompt,
    Score,
    UpdateResult,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of one step, evaluation and checkpoint aside."""

    step_s: float
    """From asking for groups until every engine serves the new weights."""
    learner_s: float
    weight_sync_s: float
    reference_s: float | None = None
    """Of workers that have the reference to themselves; None: there are none."""


def step_metrics(
    groups: StepGroups,
    update: UpdateResult,
    times: StepTimes,
    criteria: Sequence[CriterionStats],
    rubrics: RubricSet,
    *,
    saturation: float,
) -> dict[str, float]:
    """The metrics of a step; evaluation, data position and the judges' status aside.

    `criteria` are those of `groups`, dropped ones included. Rewards from `saturation` on leave
    too little to tell apart.
    """
    return {
        **_reward_metrics(groups.scored_groups),
        **_saturation_metrics(groups.scored_groups, saturation),
        **_judging_metrics(groups.samples),
        **_usage_metrics(groups.samples, rubrics),
        **criterion_metrics(criteria),
        **_rollout_metrics(groups, update),
        **_update_metrics(update),
        **_learner_speed(update, times.learner_s),
        "group/dropped": len(groups.dropped),
        "group/zero_variance_dropped": len(groups.zero_variance),
        "group/truncated_dropped": len(groups.truncated),
        "group/refilled": groups.num_refilled,
        "rubric/version": max(group.rubric_version for group in groups.groups),
        "judge/wait_frac": groups.timing.judge_wait_s / times.step_s,
        "time/step_s": times.step_s,
        "time/rollout_s": groups.timing.rollout_s,
        "time/judge_wait_s": groups.timing.judge_wait_s,
        "time/learner_s": times.learner_s,
        "time/weight_sync_s": times.weight_sync_s,
        **({} if times.reference_s is None else {"time/reference_s": times.reference_s}),
    }


def status_metrics(status: JudgePoolStatus) -> dict[str, float]:
    """How the judges stand. Without an LLM judge there are no endpoints and no limit on them."""
    metrics: dict[str, float] = {
        "judge/spent_usd": status.spent_usd,
        "judge/rate_limited": status.rate_limited,
        "judge/cache_bytes": status.cache_bytes,
    }
    if status.num_endpoints:
        metrics["judge/concurrency_limit"] = status.concurrency_limit
        metrics["judge/endpoints_up"] = status.num_endpoints_up / status.num_endpoints
    return metrics


def _reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Each of these groups has two scored samples at least."""
    rewards = [reward for group in groups for reward in group.rewards_G]
    scores = [sample.score for group in groups for sample in group.scored]
    return {
        "reward/mean": statistics.fmean(rewards),
        "reward/std": statistics.stdev(rewards),
        "reward/within_group_std": statistics.fmean(statistics.stdev(g.rewards_G) for g in groups),
        "reward/top_tie_frac": top_tie_frac(groups),
        "reward/zero_variance_frac": statistics.fmean(len(set(g.rewards_G)) == 1 for g in groups),
        "reward/ungated_mean": statistics.fmean(_ungated(score) for score in scores),
        "reward/gated_frac": statistics.fmean(score.gated_from is not None for score in scores),
    }


def _ungated(score: Score) -> float:
    assert score.value is not None
    return score.value if score.gated_from is None else score.gated_from


def top_tie_frac(groups: Sequence[Group]) -> float:
    """Share of groups in which more than one sample has the best reward."""
    tied = [group.rewards_G.count(max(group.rewards_G)) > 1 for group in groups]
    return statistics.fmean(tied)


def _saturation_metrics(groups: Sequence[Group], saturation: float) -> dict[str, float]:
    """None of a reward model, whose rewards have no upper end."""
    if any(s.judgement.mode == REWARD_MODEL_MODE for group in groups for s in group.scored):
        return {}
    saturated = statistics.fmean(max(group.rewards_G) >= saturation for group in groups)
    return {"reward/saturated_frac": saturated}


def _judging_metrics(samples: Sequence[JudgedSample]) -> dict[str, float]:
    tally = JudgingTally.of(samples)
    unknown: Counter[str] = Counter(dict(tally.causes))
    judgements = [s.judgement for s in samples]
    return {
        "judge/unscored_frac": tally.num_unscored / tally.num_samples,
        "judge/coverage_mean": statistics.fmean(s.score.coverage for s in samples),
        "judge/unknown_frac": unknown.total() / sum(len(j.verdicts) for j in judgements),
        "judge/latency_s": statistics.fmean(j.latency_s for j in judgements),
        **{f"judge/unknown/{cause.value}": unknown[cause.value] for cause in FailureCause},
    }


def _usage_metrics(samples: Sequence[JudgedSample], rubrics: RubricSet) -> dict[str, float]:
    usage = sum((s.judgement.usage for s in samples), start=JudgeUsage())
    by_llm = [v for s in samples for v in llm_verdicts(s, rubrics.of(s.sample.prompt_id))]
    metrics: dict[str, float] = {
        "judge/calls": usage.calls,
        "judge/retries": usage.retries,
        "judge/hedges": usage.hedges,
        "judge/tokens": usage.tokens,
        "judge/cost_usd": usage.cost_usd,
        "judge/saved_tokens": usage.saved_tokens,
        "judge/saved_usd": usage.saved_usd,
        "judge/unknown_ids": usage.unknown_ids,
        "judge/cache_failures": usage.cache_failures,
    }
    if by_llm:
        metrics["judge/cache_hit_frac"] = statistics.fmean(v.cached for v in by_llm)
    return metrics


def _rollout_metrics(groups: StepGroups, update: UpdateResult) -> dict[str, float]:
    samples = [s.sample for s in groups.samples]
    num_tokens = sum(len(s.completion_token_ids) for s in samples)
    return {
        "rollout/tokens": num_tokens,
        "rollout/tokens_per_s": num_tokens / groups.timing.rollout_s,
        "rollout/response_tokens_mean": num_tokens / len(samples),
        "rollout/truncated_frac": statistics.fmean(s.finish_reason == "length" for s in samples),
        "rollout/train_logprob_gap": update.logprob_gap,
        "rollout/staleness": statistics.fmean(groups.staleness),
    }


def _update_metrics(update: UpdateResult) -> dict[str, float]:
    numerics = update.numerics
    kl = {
        "policy/kl_ref": update.kl_ref,
        "policy/kl_ref_k1": numerics.kl_ref_k1,
        "policy/kl_ref_k2": numerics.kl_ref_k2,
    }
    return {
        "policy/loss": update.loss,
        **{name: value for name, value in kl.items() if value is not None},
        "policy/ratio_mean": numerics.ratio_mean,
        "policy/ratio_min": numerics.ratio_min,
        "policy/ratio_max": numerics.ratio_max,
        "policy/ratio_below_frac": numerics.ratio_below_frac,
        "policy/ratio_above_frac": numerics.ratio_above_frac,
        "policy/entropy": update.entropy,
        "policy/clip_frac": update.clip_frac,
        "policy/grad_norm": update.grad_norm,
        "policy/clipped_grad_norm": numerics.clipped_grad_norm,
        "policy/learning_rate": update.learning_rate,
        "policy/version": update.policy_version,
    }


def _learner_speed(update: UpdateResult, learner_s: float) -> dict[str, float]:
    flop_per_s = update.numerics.num_flop / learner_s
    return {
        "learner/tokens_per_s": update.num_tokens / learner_s,
        "learner/flop_per_s": flop_per_s,
        "learner/mfu_frac": flop_per_s / update.numerics.matrix_flop_per_s,
    }


def step_rows(
    groups: StepGroups,
    advantages_P_G: Sequence[Sequence[float]],
    prompts: Mapping[str, Prompt],
    rubrics: RubricSet,
) -> tuple[SampleRow, ...]:
    """A row for each sample: groups in order, then dropped ones; scored ones first in each."""
    advantages = {
        _key(sample): advantage
        for group, advantages_G in zip(groups.groups, advantages_P_G, strict=True)
        for sample, advantage in zip(group.scored, advantages_G, strict=True)
    }
    return tuple(
        sample_row(
            sample,
            record=prompts[sample.sample.prompt_id].record,
            rubric=rubrics.of(sample.sample.prompt_id),
            advantage=advantages.get(_key(sample)),
            step=groups.step,
            phase="train",
        )
        for sample in groups.samples
    )


def _key(sample: JudgedSample) -> tuple[str, int]:
    return sample.sample.prompt_id, sample.sample.sample_index
