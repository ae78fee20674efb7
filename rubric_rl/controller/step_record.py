"""What is logged of a training step: its metrics by name, and a row for each sample."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubric_rl.controller.groups import StepGroups
from rubric_rl.controller.judging_tally import JudgingTally
from rubric_rl.observability.records import SampleRow, sample_row
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import FailureCause, Group, JudgedSample, Prompt, UpdateResult


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of one step, evaluation and checkpoint aside."""

    step_s: float
    """From asking for groups until every engine serves the new weights."""
    learner_s: float
    weight_sync_s: float


def step_metrics(groups: StepGroups, update: UpdateResult, times: StepTimes) -> dict[str, float]:
    """The metrics of a step, evaluation and data position aside."""
    return {
        **_reward_metrics(groups.groups),
        **_judging_metrics(groups.samples),
        **_rollout_metrics(groups, update),
        **_update_metrics(update),
        "group/dropped": len(groups.dropped),
        "group/refilled": groups.num_refilled,
        "rubric/version": max(group.rubric_version for group in groups.groups),
        "time/step_s": times.step_s,
        "time/rollout_s": groups.timing.rollout_s,
        "time/judge_wait_s": groups.timing.judge_wait_s,
        "time/learner_s": times.learner_s,
        "time/weight_sync_s": times.weight_sync_s,
    }


def _reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Of the samples trained on. Each of these groups has two of them at least."""
    rewards = [reward for group in groups for reward in group.rewards_G]
    return {
        "reward/mean": statistics.fmean(rewards),
        "reward/std": statistics.stdev(rewards),
        "reward/within_group_std": statistics.fmean(statistics.stdev(g.rewards_G) for g in groups),
        "reward/zero_variance_frac": statistics.fmean(len(set(g.rewards_G)) == 1 for g in groups),
    }


def _judging_metrics(samples: Sequence[JudgedSample]) -> dict[str, float]:
    tally = JudgingTally.of(samples)
    unknown: Counter[str] = Counter(dict(tally.causes))
    judgements = [s.judgement for s in samples]
    return {
        "judge/unscored_frac": tally.num_unscored / tally.num_samples,
        "judge/coverage_mean": statistics.fmean(s.score.coverage for s in samples),
        "judge/unknown_frac": unknown.total() / sum(len(j.verdicts) for j in judgements),
        "judge/calls": sum(j.num_calls for j in judgements),
        "judge/tokens": sum(j.prompt_tokens + j.completion_tokens for j in judgements),
        "judge/latency_s": statistics.fmean(j.latency_s for j in judgements),
        **{f"judge/unknown/{cause.value}": unknown[cause.value] for cause in FailureCause},
    }


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
    return {
        "policy/loss": update.loss,
        "policy/kl_ref": update.kl_ref,
        "policy/entropy": update.entropy,
        "policy/clip_frac": update.clip_frac,
        "policy/grad_norm": update.grad_norm,
        "policy/learning_rate": update.learning_rate,
        "policy/version": update.policy_version,
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
