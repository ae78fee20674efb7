"""The metrics and rows of a step, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from rubric_rl.controller.assembly import make_group
from rubric_rl.controller.groups import StepGroups
from rubric_rl.controller.step_record import StepTimes, step_metrics, step_rows
from rubric_rl.controller.streaming import StreamTiming
from rubric_rl.observability.metrics import NAMES
from rubric_rl.types import UpdateResult

from .fakes import make_judged, make_prompt, make_rubric, make_rubrics

UPDATE = UpdateResult(
    policy_version=4,
    loss=0.1,
    grad_norm=2.0,
    learning_rate=1e-5,
    kl_ref=0.003,
    entropy=1.5,
    clip_frac=0.02,
    logprob_gap=1e-4,
    num_tokens=99,
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
        consumed_prompt_ids=("c", "a", "b"),
        num_refilled=1,
        timing=StreamTiming(rollout_s=2.0, judge_wait_s=0.25),
    )


def test_the_metrics_of_a_step() -> None:
    metrics = step_metrics(step_groups(), UPDATE, TIMES)
    want = {
        "reward/mean": 0.5,  # of 1, 0, 0.5, 0.5, 0.5
        "reward/std": math.sqrt(0.5 / 4),
        "reward/within_group_std": 0.25,  # 0.5 and 0
        "reward/zero_variance_frac": 0.5,
        "judge/unscored_frac": 3 / 8,
        "judge/coverage_mean": 5 / 8,
        "judge/unknown_frac": 3 / 8,
        "judge/calls": 8,
        "judge/tokens": 8 * 15,
        "judge/latency_s": 0.5,
        "judge/unknown/timeout": 3 * 4,
        "judge/unknown/missing": 0,
        "group/dropped": 1,
        "group/refilled": 1,
        "policy/loss": 0.1,
        "policy/kl_ref": 0.003,
        "policy/grad_norm": 2.0,
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


def test_every_listed_metric_of_a_step_is_logged() -> None:
    elsewhere = {"data/epoch", "data/prompts_consumed", "time/eval_s", "time/checkpoint_s"}
    elsewhere |= {name for name in NAMES if name.startswith("eval/")}
    assert set(step_metrics(step_groups(), UPDATE, TIMES)) == NAMES - elsewhere


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
