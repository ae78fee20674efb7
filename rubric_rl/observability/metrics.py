"""The one list of metric names.

A step's metrics are a mapping from these names to finite numbers. A metric that
has no value in a step (a held-out reward between two evaluations, a mean over
nothing) is left out of the mapping; it is never NaN and never a made-up zero.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class MetricSpec(NamedTuple):
    """One metric: its name everywhere, its unit, and what it measures."""

    name: str
    unit: str
    meaning: str


METRICS: tuple[MetricSpec, ...] = (
    # Rewards of the training samples.
    MetricSpec("reward/mean", "reward", "mean over the step's scored samples"),
    MetricSpec("reward/std", "reward", "standard deviation over the step's scored samples"),
    MetricSpec("reward/within_group_std", "reward", "mean over groups of the deviation in a group"),
    MetricSpec("reward/zero_variance_frac", "share", "groups whose rewards are all equal"),
    MetricSpec("reward/ungated_mean", "reward", "the mean if failed gates took nothing away"),
    MetricSpec("reward/gated_frac", "share", "scored samples that a failed gate took to 0"),
    MetricSpec("reward/top_tie_frac", "share", "groups whose best reward is shared"),
    MetricSpec("reward/saturated_frac", "share", "groups whose best reward is at saturation"),
    # Held-out evaluation.
    MetricSpec("eval/reward_mean", "reward", "mean over held-out prompts of their mean reward"),
    MetricSpec("eval/reward_ci95", "reward", "half width of its 95 % interval over prompts"),
    MetricSpec("eval/anchor_reward_mean", "reward", "the mean under the run's first rubrics"),
    MetricSpec("eval/gold_mean", "reward", "the mean by the gold rubrics and judge (`gold`)"),
    MetricSpec("eval/gold_ci95", "reward", "half width of its 95 % interval over prompts"),
    MetricSpec("eval/gold_coverage_mean", "share", "weight judged for gold of a sample, mean"),
    MetricSpec("eval/coverage_mean", "share", "judged weight of a held-out sample, mean"),
    MetricSpec("eval/unscored_frac", "share", "held-out samples without a reward"),
    # Judging. Rule criteria and the LLM judge together, unless said otherwise.
    MetricSpec("judge/unscored_frac", "share", "samples without a reward"),
    MetricSpec("judge/coverage_mean", "share", "judged weight of a sample, mean"),
    MetricSpec("judge/unknown_frac", "share", "verdicts that are UNKNOWN"),
    MetricSpec("judge/latency_s", "s", "time to judge one sample, mean"),
    MetricSpec("judge/wait_frac", "share", "time/judge_wait_s of time/step_s"),
    MetricSpec("judge/unknown_ids", "count", "entries of replies that name no criterion asked for"),
    # What the LLM judge took, for the samples of the step.
    MetricSpec("judge/calls", "count", "requests to the LLM judge, retries and hedges too"),
    MetricSpec("judge/retries", "count", "requests sent again because the one before failed"),
    MetricSpec("judge/hedges", "count", "second requests sent while the first was still out"),
    MetricSpec("judge/tokens", "tokens", "prompt and reply tokens of these requests"),
    MetricSpec("judge/cost_usd", "USD", "price of these tokens"),
    MetricSpec("judge/cache_hit_frac", "share", "verdicts from the cache, rule criteria aside"),
    MetricSpec("judge/cache_failures", "count", "reads and writes of the cache that failed"),
    MetricSpec("judge/saved_tokens", "tokens", "what verdicts from the cache cost when given"),
    MetricSpec("judge/saved_usd", "USD", "the same as money"),
    # How the judges stand after the step, evaluation included.
    MetricSpec("judge/spent_usd", "USD", "cost since the run began, before a resume too"),
    MetricSpec("judge/rate_limited", "count", "requests answered 429 since the start"),
    MetricSpec("judge/concurrency_limit", "count", "requests that may be out at once"),
    MetricSpec("judge/endpoints_up", "share", "endpoints that are given requests"),
    MetricSpec("judge/cache_bytes", "bytes", "size of the verdict cache on disk"),
    # Verdicts that are UNKNOWN, by cause.
    MetricSpec("judge/unknown/timeout", "count", "UNKNOWN: no reply in time"),
    MetricSpec("judge/unknown/transport", "count", "UNKNOWN: connection or server error"),
    MetricSpec("judge/unknown/rate_limited", "count", "UNKNOWN: refused for too many requests"),
    MetricSpec("judge/unknown/refused_request", "count", "UNKNOWN: the endpoint rejects the call"),
    MetricSpec("judge/unknown/truncated", "count", "UNKNOWN: the reply was cut at its limit"),
    MetricSpec("judge/unknown/unparseable", "count", "UNKNOWN: the reply is not what was asked"),
    MetricSpec("judge/unknown/wrong_nonce", "count", "UNKNOWN: the reply repeats another nonce"),
    MetricSpec("judge/unknown/missing", "count", "UNKNOWN: the reply leaves the criterion out"),
    MetricSpec("judge/unknown/duplicate", "count", "UNKNOWN: two verdicts on one criterion"),
    MetricSpec("judge/unknown/out_of_choice", "count", "UNKNOWN: the verdict is not a choice"),
    MetricSpec("judge/unknown/no_majority", "count", "UNKNOWN: the votes did not agree enough"),
    MetricSpec("judge/unknown/wrong_judge", "count", "UNKNOWN: another model answered"),
    MetricSpec("judge/unknown/budget", "count", "UNKNOWN: the call would have cost too much"),
    MetricSpec("judge/unknown/rule_timeout", "count", "UNKNOWN: a rule's pattern took too long"),
    MetricSpec("judge/unknown/reward_model", "count", "UNKNOWN: the reward model gave no number"),
    MetricSpec("judge/unknown/worker_died", "count", "UNKNOWN: the judge worker ended"),
    # Criteria: one criterion of one prompt, over the samples of its group.
    MetricSpec("criterion/pass_rate_mean", "share", "judged verdicts that are MET, mean"),
    MetricSpec("criterion/zero_variance_frac", "share", "criteria whose verdicts are all the same"),
    MetricSpec("criterion/within_group_std_mean", "share", "deviation of the verdicts, mean"),
    MetricSpec("criterion/unknown_frac_max", "share", "UNKNOWN verdicts of the worst criterion"),
    # Groups.
    MetricSpec("group/dropped", "count", "groups dropped for too few scored samples"),
    MetricSpec("group/zero_variance_dropped", "count", "groups dropped for equal samples"),
    MetricSpec("group/truncated_dropped", "count", "groups dropped: every sample was cut"),
    MetricSpec("group/refilled", "count", "prompts drawn in place of dropped groups"),
    # The update.
    MetricSpec("policy/loss", "loss", "policy loss with its KL term"),
    MetricSpec("policy/kl_ref", "nats", "KL to the reference policy, token mean of k3"),
    MetricSpec("policy/kl_ref_k1", "nats", "the same as k1: unbiased, noisy, may be negative"),
    MetricSpec("policy/kl_ref_k2", "nats", "the same as k2: little noise, biased"),
    MetricSpec("policy/entropy", "nats", "entropy of the policy, token mean"),
    MetricSpec("policy/clip_frac", "share", "tokens whose ratio is clipped"),
    MetricSpec("policy/ratio_mean", "ratio", "probability of a token, learner to rollout, mean"),
    MetricSpec("policy/ratio_min", "ratio", "the smallest of these"),
    MetricSpec("policy/ratio_max", "ratio", "the largest of these"),
    MetricSpec("policy/ratio_below_frac", "share", "tokens below 1 - algorithm.clip_low"),
    MetricSpec("policy/ratio_above_frac", "share", "tokens above 1 + algorithm.clip_high"),
    MetricSpec("policy/grad_norm", "norm", "gradient norm before clipping"),
    MetricSpec("policy/clipped_grad_norm", "norm", "gradient norm after clipping"),
    MetricSpec("policy/learning_rate", "rate", "learning rate of the update"),
    MetricSpec("learner/tokens_per_s", "tokens/s", "prompt and completion tokens of the update"),
    MetricSpec("learner/flop_per_s", "FLOP/s", "matrix products of the update over its time"),
    MetricSpec("learner/mfu_frac", "share", "of the rate of one large matrix product"),
    MetricSpec("policy/version", "steps", "optimizer steps completed"),
    MetricSpec("rubric/version", "version", "rubric version that the samples are judged under"),
    # A refinement, logged at the step that it follows.
    MetricSpec("rubric/set_version", "version", "version of the whole set after it"),
    MetricSpec("rubric/refined_prompts", "count", "prompts whose rubrics were looked at"),
    MetricSpec("rubric/accepted", "count", "proposals that the gate accepted"),
    MetricSpec("rubric/rejected", "count", "proposals that the gate refused"),
    MetricSpec("rubric/failed", "count", "proposals that could not be used"),
    MetricSpec("rubric/unscored", "count", "answers that could not be judged"),
    MetricSpec("rubric/top_ties_before", "count", "answers that share the best score, mean"),
    MetricSpec("rubric/top_ties_after", "count", "the same under the rubrics after it"),
    MetricSpec("rubric/criteria_mean", "count", "criteria of a rubric, mean"),
    MetricSpec("rubric/usd", "USD", "proposals, and the verdicts asked for since the start"),
    MetricSpec("rubric/usd_per_accepted", "USD", "the same for each accepted proposal"),
    # Generation.
    MetricSpec("rollout/tokens", "tokens", "generated tokens"),
    MetricSpec("rollout/tokens_per_s", "tokens/s", "generated tokens over the rollout's time"),
    MetricSpec("rollout/response_tokens_mean", "tokens", "length of a completion, mean"),
    MetricSpec("rollout/truncated_frac", "share", "completions cut at rollout.max_new_tokens"),
    MetricSpec("rollout/train_logprob_gap", "nats", "rollout against learner log-prob, mean gap"),
    MetricSpec("rollout/staleness", "steps", "learner version - sample version, mean"),
    # Where the time goes.
    MetricSpec("time/step_s", "s", "the whole step"),
    MetricSpec("time/rollout_s", "s", "first request until the last completion"),
    MetricSpec("time/judge_wait_s", "s", "last completion until the last verdict"),
    MetricSpec("time/reference_s", "s", "the reference workers (learner.reference=actor)"),
    MetricSpec("time/learner_s", "s", "the learner's update"),
    MetricSpec("time/weight_sync_s", "s", "publishing until every engine serves the new weights"),
    MetricSpec("time/refinement_s", "s", "refining the rubrics"),
    MetricSpec("time/eval_s", "s", "held-out evaluation"),
    MetricSpec("time/checkpoint_s", "s", "the run waited for the checkpoint before this step"),
    MetricSpec("time/checkpoint_write_s", "s", "from its begin until it was complete on disk"),
    # Baselines: SFT and the Bradley-Terry reward model.
    MetricSpec("sft/loss", "nats", "-log p of an answer's tokens before the step, mean"),
    MetricSpec("sft/eval_loss", "nats", "the same of held-out answers"),
    MetricSpec("rm/loss", "nats", "-log sigmoid of the margin before the step, mean"),
    MetricSpec("rm/accuracy", "share", "pairs ordered rightly before the step, ties as half"),
    MetricSpec("rm/margin", "reward", "chosen above rejected answer, mean"),
    MetricSpec("rm/eval_loss", "nats", "rm/loss of held-out pairs"),
    MetricSpec("rm/eval_accuracy", "share", "rm/accuracy of held-out pairs"),
    MetricSpec("rm/eval_margin", "reward", "rm/margin of held-out pairs"),
    # Data position.
    MetricSpec("data/epoch", "epochs", "epoch of the step, from 0"),
    MetricSpec("data/prompts_consumed", "count", "prompts drawn since the run began"),
)

NAMES: frozenset[str] = frozenset(spec.name for spec in METRICS)


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError if a name is not in METRICS: every metric is documented."""
    unlisted = sorted(set(names) - NAMES)
    if unlisted:
        near = difflib.get_close_matches(unlisted[0], sorted(NAMES), n=1)
        hint = f" (nearest to {unlisted[0]!r}: {near[0]!r})" if near else ""
        raise ValueError(f"metrics {unlisted} are not listed in METRICS{hint}")


def markdown_table() -> str:
    """METRICS as a Markdown table, as the README shows it."""
    lines = ["| metric | unit | meaning |", "|---|---|---|"]
    lines += [f"| `{spec.name}` | {spec.unit} | {spec.meaning} |" for spec in METRICS]
    return "\n".join(lines) + "\n"
