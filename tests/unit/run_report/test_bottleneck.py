"""Which phase is named, by medians computed by hand, and that the advice names real settings."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from rubric_rl.config.compose import compose, to_yaml
from rubric_rl.config.schema import Config
from rubric_rl.run_report.bottleneck import (
    PHASES,
    REST,
    advice_on,
    find_bottleneck,
    measured_s,
    phase_times,
)
from rubric_rl.run_report.records import StepMetrics
from rubric_rl.run_report.settings import Settings, read_settings

NONE = Settings({})


def steps(*seconds: dict[str, float]) -> list[StepMetrics]:
    """Lines of metrics from seconds by the middle part of a metric's name."""
    return [
        StepMetrics(
            step=i, time=0.0, values={f"time/{name}_s": value for name, value in own.items()}
        )
        for i, own in enumerate(seconds, 1)
    ]


def test_a_phase_takes_its_median_times_its_number() -> None:
    # Rollout 10, 10, 100: median 10, 3 times, 30 s. Learner 20 x 3 = 60. The rest of the steps is
    # 35 - 30 = 5, 5 and 130 - 120 = 10: median 5, 15 s. Evaluation 45 once. Together 150 s.
    lines = steps(
        {"step": 35, "rollout": 10, "learner": 20},
        {"step": 35, "rollout": 10, "learner": 20, "eval": 45},
        {"step": 130, "rollout": 100, "learner": 20},
    )
    found = {p.metric: (p.median_s, p.count, p.share) for p in phase_times(lines)}
    assert found == {
        "time/learner_s": (20, 3, pytest.approx(60 / 150)),
        "time/eval_s": (45, 1, pytest.approx(45 / 150)),
        "time/rollout_s": (10, 3, pytest.approx(30 / 150)),
        REST: (5, 3, pytest.approx(15 / 150)),
    }
    assert list(found) == ["time/learner_s", "time/eval_s", "time/rollout_s", REST]


def test_the_sentence_names_the_phase_its_share_and_what_to_change() -> None:
    found = find_bottleneck(steps({"step": 10, "judge_wait": 7, "learner": 3}), NONE)
    assert found is not None
    assert found.sentence == (
        "The bottleneck is waiting for the judge with 70 % of the time (median 7 s, once). "
        "To shorten waiting for the judge: more judge workers (`judge.num_workers`)."
    ).replace("70 %", "70%")


def test_two_phases_that_take_about_as_much_are_both_named() -> None:
    found = find_bottleneck(steps({"step": 100, "rollout": 51, "learner": 49}), NONE)
    assert found is not None
    assert found.sentence.startswith("Two phases take about as much: generation with 51%")
    assert "To shorten generation:" in found.sentence
    assert "To shorten the learner:" in found.sentence


def test_phases_that_overlap_leave_no_negative_rest() -> None:
    # With staleness the rollout of a step may take longer than the step.
    lines = steps({"step": 20, "rollout": 30, "learner": 10})
    assert {p.metric: p.share for p in phase_times(lines)} == {
        "time/rollout_s": 0.75,
        "time/learner_s": 0.25,
    }


def test_no_times_no_bottleneck() -> None:
    assert find_bottleneck([StepMetrics(step=0, time=0.0, values={})], NONE) is None
    assert phase_times([]) == ()


def test_measured_time_counts_steps_and_what_is_beside_them_once() -> None:
    lines = steps({"eval": 5}, {"step": 10, "rollout": 9, "refinement": 2, "checkpoint": 1})
    assert measured_s(lines) == 18


def test_what_is_set_already_is_not_advised() -> None:
    packed = Settings({"learner.packing": True})
    assert "learner.packing" in advice_on("time/learner_s", [], NONE)
    assert "learner.packing" not in advice_on("time/learner_s", [], packed)
    written_async = Settings({"run.checkpoint_writing": "async"})
    assert "=async" in advice_on("time/checkpoint_s", [], NONE)
    assert "=async" not in advice_on("time/checkpoint_s", [], written_async)


def test_refused_requests_are_told_by_their_number() -> None:
    line = StepMetrics(step=1, time=0.0, values={"judge/rate_limited": 12.0})
    words = advice_on("time/judge_wait_s", [line], Settings({"judge.llm.model": "m"}))
    assert "answered 429 12 times" in words


def _fields(model: type[Config], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        inner = (field.annotation, *getattr(field.annotation, "__args__", ()))
        for part in inner:
            if hasattr(part, "model_fields"):
                yield from _fields(part, f"{prefix}{name}.")


@pytest.mark.parametrize("metric", PHASES)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_settings_that_are_named_exist(metric: str, device: str) -> None:
    known = set(_fields(Config))
    everything_on = {
        "cluster.device": device,
        "rollout.enforce_eager": True,
        "rollout.engine": "transformers",
        "learner.gradient_checkpointing": True,
        "learner.offload_optimizer": True,
        "judge.llm.model": "m",
        "judge.cache.enabled": False,
    }
    words = advice_on(metric, [], Settings(everything_on)) + advice_on(metric, [], NONE)
    named = {code.partition("=")[0] for code in re.findall(r"`([^`]+)`", words)}
    assert named - known - {"logs/"} == set()
    assert named


def test_settings_are_flat_and_keep_no_secret(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "judge:\n  llm:\n    model: m\n    api_key_env: KEY\n    api_key: s3cret\n"
        "    base_url: https://user:s3cret@host/v1?key=s3cret\n    votes: 3\n"
        "    extra_endpoints:\n    - {base_url: 'http://me:s3cret@b', password: s3cret}\n"
        "  cache: {enabled: true, dir: null}\n",
        encoding="utf-8",
    )
    settings = read_settings(path)
    assert settings.values == {
        "judge.llm.model": "m",
        "judge.llm.api_key_env": "KEY",
        "judge.llm.api_key": "(hidden)",
        "judge.llm.base_url": "https://(hidden)@host/v1?(hidden)",
        "judge.llm.votes": 3,
        "judge.llm.extra_endpoints": "[{base_url: 'http://(hidden)@b', password: (hidden)}]",
        "judge.cache.enabled": True,
        "judge.cache.dir": None,
    }


def test_a_real_configuration_is_read_whole(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    config = compose(["experiment=quickstart_cpu", f"run.dir={tmp_path}"])
    path.write_text(to_yaml(config), encoding="utf-8")
    settings = read_settings(path)
    assert settings.text("algorithm.advantage") == "grpo"
    assert settings.is_on("learner.packing")
    assert "(hidden)" not in settings.values.values()
