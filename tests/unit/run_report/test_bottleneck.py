"""Which phase is named, by medians computed by hand, and that the advice names real settings."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from rubric_rl.config.compose import compose, to_yaml
from rubric_rl.config.schema import Config
from rubric_rl.run_report.bottleneck import (
    HINTS,
    PHASES,
    REST,
    advice,
    bottleneck,
    measured_s,
    phase_times,
)
from rubric_rl.run_report.records import StepMetrics
from rubric_rl.run_report.settings import Settings, read_settings

NONE = Settings({})


def steps(*seconds: dict[str, float]) -> list[StepMetrics]:
    """Lines of metrics from seconds by the middle part of a metric's name."""
    return [
        StepMetrics(step=i, time=0.0, values={f"time/{name}_s": s for name, s in own.items()})
        for i, own in enumerate(seconds, 1)
    ]


def sentence(*seconds: dict[str, float]) -> str:
    return bottleneck(phase_times(steps(*seconds)), NONE)


def test_a_phase_takes_its_median_times_its_number() -> None:
    # Rollout 10, 10, 100: median 10, 3 times, 30 s. Learner 20 x 3 = 60. The rest of the steps is
    # 35 - 30 = 5, 5 and 130 - 120 = 10: median 5, 15 s. Evaluation 45 once. Together 150 s.
    lines = steps(
        {"step": 35, "rollout": 10, "learner": 20},
        {"step": 35, "rollout": 10, "learner": 20, "eval": 45},
        {"step": 130, "rollout": 100, "learner": 20},
    )
    assert [(p.metric, p.median_s, p.count, p.share) for p in phase_times(lines)] == [
        ("time/learner_s", 20, 3, 60 / 150),
        ("time/eval_s", 45, 1, 45 / 150),
        ("time/rollout_s", 10, 3, 30 / 150),
        (REST, 5, 3, 15 / 150),
    ]


def test_the_sentence_names_the_phase_its_share_and_what_to_change() -> None:
    assert sentence({"step": 10, "judge_wait": 7, "learner": 3}) == (
        "The bottleneck is waiting for the judge with 70% of the time (median 7 s, once). "
        "To shorten waiting for the judge: more judge workers (`judge.num_workers`); "
        "all criteria in one call (`judge.llm.mode=all`)."
    )


def test_two_phases_that_take_about_as_much_are_both_named() -> None:
    words = sentence({"step": 100, "rollout": 51, "learner": 49})
    assert words.startswith("Two phases take about as much: generation with 51%")
    assert "To shorten generation:" in words and "To shorten the learner:" in words


def test_phases_that_overlap_leave_no_negative_rest() -> None:
    # With staleness the rollout of a step may take longer than the step.
    phases = phase_times(steps({"step": 20, "rollout": 30, "learner": 10}))
    assert [(p.metric, p.share) for p in phases] == [
        ("time/rollout_s", 0.75),
        ("time/learner_s", 0.25),
    ]


def test_without_times_there_are_no_phases() -> None:
    assert phase_times([StepMetrics(step=0, time=0.0, values={})]) == ()


def test_measured_time_counts_steps_and_what_is_beside_them_once() -> None:
    lines = steps({"eval": 5}, {"step": 10, "rollout": 9, "refinement": 2, "checkpoint": 1})
    assert measured_s(lines) == 18


def test_what_is_set_already_is_not_advised() -> None:
    def learner(packing: str) -> str:
        return " ".join(advice("time/learner_s", Settings({"learner.packing": packing})))

    assert "packing" in learner("false") and "packing" not in learner("true")
    with_model = advice("time/judge_wait_s", Settings({"judge.llm.model": "m"}))
    assert any("429" in words for words in with_model)
    assert not any("429" in words for words in advice("time/judge_wait_s", NONE))


def _fields(model: type[Config], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(part, "model_fields"):
                yield from _fields(part, f"{prefix}{name}.")


@pytest.mark.parametrize("metric", PHASES)
def test_the_settings_that_are_named_exist(metric: str) -> None:
    hints = HINTS[metric]
    codes = [code for words, _ in hints for code in re.findall(r"`([^`]+)`", words)]
    needs = [need.replace("!", "") for _, own in hints for need in own]
    named = {code.partition("=")[0] for code in (*codes, *needs)}
    assert named - set(_fields(Config)) - {"logs/"} == set()


def test_settings_are_flat_and_keep_no_secret(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "judge:\n  llm:\n    api_key_env: KEY\n    api_key: s3cret\n    votes: 3\n"
        "    base_url: https://user:s3cret@host/v1?key=s3cret\n"
        "    extra_endpoints:\n    - {base_url: 'http://me:s3cret@b', password: s3cret}\n"
        "  cache: {enabled: true, dir: null, tags: []}\n",
        encoding="utf-8",
    )
    assert read_settings(path).values == {
        "judge.llm.api_key_env": "KEY",
        "judge.llm.api_key": "(hidden)",
        "judge.llm.votes": "3",
        "judge.llm.base_url": "https://(hidden)@host/v1?(hidden)",
        "judge.llm.extra_endpoints.0.base_url": "http://(hidden)@b",
        "judge.llm.extra_endpoints.0.password": "(hidden)",
        "judge.cache.enabled": "true",
        "judge.cache.dir": "null",
        "judge.cache.tags": "[]",
    }


def test_of_a_real_configuration_nothing_is_hidden(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    config = compose(["experiment=quickstart_cpu", f"run.dir={tmp_path}"])
    path.write_text(to_yaml(config), encoding="utf-8")
    settings = read_settings(path)
    assert settings.text("algorithm.advantage") == "grpo" and settings.is_on("learner.packing")
    assert settings.text("judge.llm") is None
    assert "(hidden)" not in settings.values.values()
