"""The metrics and rows of a step, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rubric_rl.controller.assembly import make_group
from rubric_rl.controller.criteria_stats import criteria_stats
from rubric_rl.controller.groups import StepGroups
from rubric_rl.controller.interfaces import JudgePoolStatus
from rubric_rl.controller.step_record import StepTimes, status_metrics, step_metrics, step_rows
from rubric_rl.controller.streaming import StreamTiming
from rubric_rl.observability.metrics import NAMES
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.rubrics.rules import WordCount
from rubric_rl.types import (
    Criterion,
    Group,
    JudgedSample,
    JudgeUsage,
    Rubric,
    Score,
    UpdateNumerics,
    UpdateResult,
    Verdict,
    VerdictValue,
)

from .fakes import make_judged, make_judgement, make_prompt, make_rubric, make_rubrics, make_sample

UPDATE = UpdateResult(
    policy_version=4,
    loss=0.1,
    grad_norm=2.0,
    learning_rate=1e-5,
    kl_ref=0.003,
    entropy=1.5,
    clip_frac=0.02,
    logprob_gap=1e-4,
    num_tokens=100,
    numerics=UpdateNumerics(
        kl_ref_k1=-0.001,
        kl_ref_k2=0.002,
        ratio_mean=1.01,
        ratio_min=0.25,
        ratio_max=3.0,
        ratio_below_frac=0.02,
        ratio_above_frac=0.03,
        clipped_grad_norm=1.0,
        num_flop=8e9,
        matrix_flop_per_s=1e10,
    ),
)
TIMES = StepTimes(step_s=10.0, learner_s=4.0, weight_sync_s=0.5)


def step_groups() -> StepGroups:
    """Two groups of 3 and 2 scored samples with one unscored, and a dropped one."""
    a, b, c = make_rubric("a"), make_rubric("b"), make_rubric("c")
    group_a = [
        make_judged(r, rubric=a, index=i, policy_version=3) for i, r in enumerate((1, 0, 0.5))
    ]
    group_b = [
        make_judged(0.5, rubric=b, index=0, policy_version=2, num_tokens=7),
        make_judged(0.5, rubric=b, index=1, policy_version=2),
        make_judged(None, rubric=b, index=2, policy_version=2),
    ]
    group_c = [make_judged(None, rubric=c, index=i, policy_version=3) for i in range(2)]
    return StepGroups(
        step=4,
        groups=(make_group(a, group_a), make_group(b, group_b)),
        dropped=(make_group(c, group_c),),
        zero_variance=(),
        truncated=(),
        consumed_prompt_ids=("c", "a", "b"),
        num_refilled=1,
        timing=StreamTiming(rollout_s=2.0, judge_wait_s=0.25),
    )


def metrics_of(groups: StepGroups, rubrics: RubricSet) -> dict[str, float]:
    everything = (*groups.groups, *groups.dropped)
    criteria = criteria_stats(everything, rubrics, step=groups.step, phase="train")
    return step_metrics(groups, UPDATE, TIMES, criteria, rubrics, saturation=0.9)


RUBRICS = make_rubrics([make_prompt(prompt_id) for prompt_id in "abc"])
STATUS = JudgePoolStatus(
    spent_usd=1.5,
    concurrency_limit=12,
    num_endpoints=4,
    num_endpoints_up=3,
    rate_limited=7,
    cache_bytes=2048,
    limiter_state="{}",
)


def test_the_metrics_of_a_step() -> None:
    metrics = metrics_of(step_groups(), RUBRICS)
    want = {
        "reward/mean": 0.5,  # of 1, 0, 0.5, 0.5, 0.5
        "reward/std": math.sqrt(0.5 / 4),
        "reward/within_group_std": 0.25,  # 0.5 and 0
        "reward/zero_variance_frac": 0.5,
        "reward/ungated_mean": 0.5,
        "reward/gated_frac": 0,
        "judge/unscored_frac": 3 / 8,
        "judge/coverage_mean": 5 / 8,
        "judge/unknown_frac": 3 / 8,
        "judge/calls": 8,
        "judge/tokens": 8 * 15,
        "judge/latency_s": 0.5,
        "judge/unknown/timeout": 3 * 4,
        "judge/unknown/missing": 0,
        "judge/retries": 0,
        "judge/cost_usd": 0,
        "judge/cache_hit_frac": 0,
        "judge/wait_frac": 0.025,
        "criterion/pass_rate_mean": 1,  # whatever the rewards: see `make_judged`
        "criterion/zero_variance_frac": 1,
        "criterion/within_group_std_mean": 0,
        "criterion/unknown_frac_max": 1,  # those of the dropped group
        "group/dropped": 1,
        "group/zero_variance_dropped": 0,
        "group/truncated_dropped": 0,
        "group/refilled": 1,
        "policy/loss": 0.1,
        "policy/kl_ref": 0.003,
        "policy/kl_ref_k1": -0.001,
        "policy/kl_ref_k2": 0.002,
        "policy/ratio_mean": 1.01,
        "policy/ratio_min": 0.25,
        "policy/ratio_max": 3.0,
        "policy/ratio_below_frac": 0.02,
        "policy/ratio_above_frac": 0.03,
        "policy/grad_norm": 2.0,
        "policy/clipped_grad_norm": 1.0,
        "learner/tokens_per_s": 25,  # 100 in 4 s
        "learner/flop_per_s": 2e9,
        "learner/mfu_frac": 0.2,
        "policy/version": 4,
        "rubric/version": 1,
        "rollout/tokens": 7 * 3 + 7,
        "rollout/tokens_per_s": 14,
        "rollout/response_tokens_mean": 28 / 8,
        "rollout/truncated_frac": 0,
        "rollout/train_logprob_gap": 1e-4,
        "rollout/staleness": 3 / 8,  # three samples of version 2
        "time/step_s": 10.0,
        "time/rollout_s": 2.0,
        "time/judge_wait_s": 0.25,
        "time/learner_s": 4.0,
        "time/weight_sync_s": 0.5,
    }
    assert {name: metrics[name] for name in want} == pytest.approx(want)


def test_rewards_are_those_of_all_scored_groups_whether_trained_on_or_not() -> None:
    groups = step_groups()
    kept, equal = groups.groups
    filtered = replace(groups, groups=(kept,), zero_variance=(equal,))
    whole, metrics = metrics_of(groups, RUBRICS), metrics_of(filtered, RUBRICS)
    assert (metrics["group/zero_variance_dropped"], metrics["group/dropped"]) == (1, 1)
    for name in ("reward/mean", "reward/std", "reward/zero_variance_frac", "reward/top_tie_frac"):
        assert metrics[name] == whole[name]


def test_every_listed_metric_of_a_step_is_logged() -> None:
    elsewhere = {"data/epoch", "data/prompts_consumed", "time/eval_s", "time/checkpoint_s"}
    elsewhere |= {name for name in NAMES if name.startswith("eval/")}
    # Of a refinement, which has a record of its own.
    elsewhere |= {name for name in NAMES if name.startswith("rubric/")} - {"rubric/version"}
    elsewhere |= {"time/refinement_s"}
    # Of reference workers, where there are any.
    elsewhere |= {"time/reference_s"}
    elsewhere |= {"time/checkpoint_write_s"}
    # Of the baselines' trainings.
    elsewhere |= {name for name in NAMES if name.startswith(("sft/", "rm/"))}
    logged = set(metrics_of(step_groups(), RUBRICS)) | set(status_metrics(STATUS))
    assert logged == NAMES - elsewhere


def test_how_the_judges_stand_is_their_status_with_endpoints_as_a_share() -> None:
    assert status_metrics(STATUS) == {
        "judge/spent_usd": 1.5,
        "judge/rate_limited": 7,
        "judge/cache_bytes": 2048,
        "judge/concurrency_limit": 12,
        "judge/endpoints_up": 0.75,
    }


def test_without_an_llm_judge_there_is_no_limit_and_no_share_of_endpoints() -> None:
    rules = replace(STATUS, num_endpoints=0, num_endpoints_up=0, concurrency_limit=0)
    assert set(status_metrics(rules)) == {
        *("judge/spent_usd", "judge/rate_limited", "judge/cache_bytes")
    }


def test_what_failed_gates_took_away_is_a_second_mean() -> None:
    # Rewards 1, 0 and 0.5, the 0 taken from 0.75: means 0.5 and 2.25 / 3.
    samples = [make_judged(r, rubric=make_rubric("a"), index=i) for i, r in enumerate((1, 0, 0.5))]
    samples[1] = replace(samples[1], score=Score(value=0.0, coverage=1.0, gated_from=0.75))
    metrics = metrics_of(replace(step_groups(), groups=(group_of("a", *samples),)), RUBRICS)
    assert metrics["reward/mean"] == 0.5
    assert metrics["reward/ungated_mean"] == 0.75
    assert metrics["reward/gated_frac"] == pytest.approx(1 / 3)


def group_of(prompt_id: str, *samples: JudgedSample) -> Group:
    return make_group(make_rubric(prompt_id), samples)


MIXED = Rubric(
    prompt_id="a",
    version=1,
    criteria=(
        Criterion(cid="c1", text="t", weight=1.0),
        Criterion(cid="c2", text="t", weight=1.0),
        Criterion(cid="c3", text="t", weight=1.0, rule=WordCount(max=9)),
    ),
)


def mixed_sample(index: int, *, cached: int, usage: JudgeUsage) -> JudgedSample:
    """The first `cached` verdicts are from the cache."""
    met = VerdictValue.MET
    verdicts = tuple(
        Verdict(cid=c.cid, value=met, reason="", cached=position < cached)
        for position, c in enumerate(MIXED.criteria)
    )
    judgement = replace(make_judgement(MIXED, [met] * 3), verdicts=verdicts, usage=usage)
    score = Score(value=1.0, coverage=1.0)
    return JudgedSample(sample=make_sample("a", index), judgement=judgement, score=score)


def test_usage_is_summed_and_hits_are_of_what_an_llm_had_to_give() -> None:
    asked = JudgeUsage(
        calls=4,
        retries=2,
        hedges=1,
        prompt_tokens=100,
        completion_tokens=20,
        cost_usd=0.5,
        unknown_ids=3,
    )
    saved = JudgeUsage(calls=1, cached_verdicts=1, saved_tokens=40.0, saved_usd=0.125)
    samples = [mixed_sample(0, cached=0, usage=asked), mixed_sample(1, cached=1, usage=saved)]
    groups = replace(step_groups(), groups=(make_group(MIXED, samples),), dropped=())
    metrics = metrics_of(groups, RubricSet(version=1, rubrics=(MIXED,)))
    want = {
        "judge/calls": 5,
        "judge/retries": 2,
        "judge/hedges": 1,
        "judge/tokens": 120,
        "judge/cost_usd": 0.5,
        "judge/saved_tokens": 40,
        "judge/saved_usd": 0.125,
        "judge/unknown_ids": 3,
        "judge/cache_hit_frac": 1 / 4,  # of c1 and c2 of two samples
    }
    assert {name: metrics[name] for name in want} == want


def test_of_rules_alone_there_is_no_share_of_hits() -> None:
    rules = replace(MIXED, criteria=MIXED.criteria[2:])
    sample = mixed_sample(0, cached=0, usage=JudgeUsage())
    judgement = make_judgement(rules, [VerdictValue.MET])
    samples = [
        replace(sample, judgement=judgement),
        replace(sample, sample=make_sample("a", 1), judgement=judgement),
    ]
    groups = replace(step_groups(), groups=(make_group(rules, samples),), dropped=())
    metrics = metrics_of(groups, RubricSet(version=1, rubrics=(rules,)))
    assert "judge/cache_hit_frac" not in metrics
    assert metrics["judge/cost_usd"] == 0


def test_every_sample_has_a_row_and_only_trained_ones_have_an_advantage() -> None:
    prompts = {prompt_id: make_prompt(prompt_id) for prompt_id in "abc"}
    rows = step_rows(
        step_groups(),
        [[1.0, -1.0, 0.0], [0.25, -0.25]],
        prompts,
        make_rubrics(list(prompts.values())),
    )
    assert [(r.prompt_id, r.sample_index, r.advantage) for r in rows] == [
        ("a", 0, 1.0),
        ("a", 1, -1.0),
        ("a", 2, 0.0),
        ("b", 0, 0.25),
        ("b", 1, -0.25),
        ("b", 2, None),
        ("c", 0, None),
        ("c", 1, None),
    ]
    assert {(r.step, r.phase) for r in rows} == {(4, "train")}
    assert rows[0].messages[0].content == "question a"
