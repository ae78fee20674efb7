"""`rubric-rl eval overopt`: figures by hand from run folders, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.commands.eval_overopt import build_parser, main, overopt
from rubric_rl.commands.eval_overopt_text import as_json, print_overopt
from rubric_rl.commands.eval_winrate import main as winrate
from rubric_rl.config.compose import compose, to_yaml
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.observability.records import SampleRow, StepRecord
from rubric_rl.observability.sinks import JsonlSink
from rubric_rl.types import Message

PROMPTS = ("p0", "p1")
KNEE = (Message(role="user", content="My knee hurts."),)


def row(step: int, prompt_id: str, gold: float | None, completion: str = "Rest.") -> SampleRow:
    return SampleRow(
        step=step,
        phase="eval",
        prompt_id=prompt_id,
        messages=KNEE,
        completion=completion,
        finish_reason="stop",
        criteria=(),
        reward=0.5,
        coverage=1.0,
        advantage=None,
        sample_index=0,
        seed=7,
        policy_version=step,
        rubric_id="r",
        rubric_version=0,
        judge_id="rules",
        gold_reward=gold,
    )


@cache
def config_yaml() -> str:
    return to_yaml(compose(["experiment=quickstart_cpu", "run.dir=unused"]))


def make_run(
    folder: Path,
    proxies: Sequence[float],
    golds: Sequence[float | None],
    *,
    answers: Mapping[int, str] | None = None,
    every: int = 2,
) -> Path:
    """A run with an evaluation every `every` steps; both prompts have the gold of its step."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_yaml())
    sink = JsonlSink(folder)
    for step in range(every * (len(proxies) - 1) + 1):
        metrics: dict[str, float] = {}
        if step:
            metrics |= {
                "policy/kl_ref": 0.01 * (step - 1),
                "rollout/response_tokens_mean": 50.0 + step,
                "reward/top_tie_frac": 0.25,
            }
        rows: tuple[SampleRow, ...] = ()
        if step % every == 0:
            number = step // every
            gold = golds[number]
            metrics["eval/reward_mean"] = proxies[number]
            if gold is not None:
                metrics |= {"eval/gold_mean": gold, "eval/gold_ci95": 0.0196}
            text = "Rest." if answers is None else answers[step]
            rows = tuple(row(step, prompt_id, gold, text) for prompt_id in PROMPTS)
        sink.log(StepRecord(step=step, metrics=metrics, rows=rows))
    sink.close()
    return folder


def figures(*arguments: object) -> list[dict[str, Any]]:
    """What the JSON has of each run; nothing is drawn, as that takes its time."""
    found = overopt(build_parser().parse_args([*map(str, arguments), "--out", "unused"]))
    return json.loads(as_json(found))["runs"]


def test_the_proxy_of_a_refined_run_is_the_reward_under_its_first_rubrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "refined", [0.1, 0.5, 0.3], [0.2, 0.6, 0.8])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line, anchored in zip(lines[::2], [0.1, 0.5, 0.7], strict=True):
        line["eval/anchor_reward_mean"] = anchored  # the rubrics in force got harder after step 2
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = figures(run)[0]
    assert found["final"]["proxy"] == 0.7
    assert found["final"]["source"].startswith("eval/anchor_reward_mean: metrics.jsonl line 5")
    # Normalised both are 0, 2/3, 1: no area between them.
    assert found["area_by_step"] == pytest.approx(0.0, abs=1e-9)


def test_each_run_has_its_peak_onset_and_area_with_where_they_are_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    falls = make_run(tmp_path / "falls", [0.1, 0.3, 0.5, 0.5], [0.2, 0.6, 0.4, 0.2])
    holds = make_run(tmp_path / "holds", [0.1, 0.3, 0.5], [0.2, 0.4, 0.6])
    assert main([str(falls), str(holds), "--out", str(tmp_path / "out")]) == 0
    first, second = json.loads((tmp_path / "out" / "overopt.json").read_text())["runs"]
    assert (first["peak"]["step"], first["onset"]["step"], first["final"]["step"]) == (2, 4, 6)
    assert first["is_confirmed"] and first["final_drop"]["noise"] == "paired"
    assert first["final_drop"]["value"] == pytest.approx(0.4)
    # Normalised proxy 0 .5 1 1, gold 0 1 .5 0: as in the tests of the area.
    assert first["area_by_step"] == pytest.approx((0.125 + 0.75) / 3)
    # The policy of step 2 is what step 3 starts from; the last has only step 6 itself.
    assert first["peak"]["kl"] == pytest.approx(0.02)
    assert first["final"]["kl"] == pytest.approx(0.05)
    assert first["peak"]["source"] == (
        "eval/reward_mean: metrics.jsonl line 3; training: line 4; gold: metrics.jsonl line 3"
    )
    assert (first["peak"]["length"], first["peak"]["top_tie_frac"]) == (53.0, 0.25)
    assert (second["onset"], second["area_by_step"]) == (None, pytest.approx(0))
    # Both reach 0.03, the KL of `holds` at its end: 0.6, and between 0.6 and 0.4 the middle.
    assert second["gold_at_common_kl"] == pytest.approx(0.6)
    assert first["gold_at_common_kl"] == pytest.approx(0.5)
    shown = capsys.readouterr().out
    assert "0.600 (2)" in shown and "none" in shown
    rows = list(csv.DictReader((tmp_path / "out" / "curves.csv").open()))
    assert [(r["run"], r["step"]) for r in rows[:5]] == [
        *[("falls", str(step)) for step in (0, 2, 4, 6)],
        ("holds", "0"),
    ]
    assert (tmp_path / "out" / "overopt.png").read_bytes().startswith(b"\x89PNG")
    assert "falls" in (tmp_path / "out" / "overopt.svg").read_text()


def test_an_onset_of_the_last_evaluation_alone_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.3, 0.5], [0.2, 0.6, 0.4])
    print_overopt(overopt(build_parser().parse_args([str(run), "--out", "unused"])))
    assert "4?" in capsys.readouterr().out
    assert not figures(run)[0]["is_confirmed"]
    assert figures(run, "--evaluations", 1)[0]["is_confirmed"]


def test_a_dry_run_reads_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.3], [0.2, 0.6])
    out = tmp_path / "out"
    assert main([str(run), "--out", str(out), "--dry-run"]) == 0
    assert f"{out}/overopt.json would be written" in capsys.readouterr().out
    assert not out.exists()


def test_answers_are_scored_again_by_the_rules_of_a_gold_file(tmp_path: Path) -> None:
    answers = {0: "Rest.", 2: "See a doctor and rest.", 4: "Rest."}
    run = make_run(tmp_path / "run", [0.1, 0.2, 0.3], [None] * 3, answers=answers)
    gold = write_gold(tmp_path / "gold.jsonl")
    found = figures(run, "--gold-rubrics", gold)[0]
    # "doctor" weighs 3 of 4, "rest" 1.
    assert (found["peak"]["step"], found["peak"]["gold"]) == (2, 1.0)
    assert found["final"]["gold"] == pytest.approx(0.25)
    assert found["peak"]["source"].endswith("gold: samples/eval_000002.jsonl")


def write_gold(path: Path, *, prompts: Sequence[str] = PROMPTS, **changes: Any) -> Path:
    criteria = [
        {
            "id": word,
            "text": word,
            "weight": weight,
            "rule": {"rule": "contains_any", "terms": [word]},
        }
        for word, weight in (("doctor", 3), ("rest", 1))
    ]
    if "rule" in changes:
        criteria[0].pop("rule")
    rows = [
        {
            "id": prompt_id,
            "domain": "health",
            "messages": [{"role": "user", "content": changes.get("content", KNEE[0].content)}],
            "rubric": {"criteria": criteria},
        }
        for prompt_id in prompts
    ]
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": ["p0"]}, "'p1' is not in it"),
        ({"content": "My elbow hurts."}, "'p0' has other messages"),
        ({"rule": None}, "criteria have no rule, the first is 'doctor' of prompt 'p0'"),
    ],
)
def test_a_gold_file_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.2], [None, None])
    gold = write_gold(tmp_path / "gold.jsonl", **changes)
    with pytest.raises((DataError, ConfigError), match=says):
        main([str(run), "--gold-rubrics", str(gold), "--out", str(tmp_path / "out")])


def win_file(tmp_path: Path, wins: int) -> Path:
    """By the command itself, of 4 prompts: the preference above that of the opponent wins."""
    policy = [
        {"prompt_id": f"p{i}", "source": "policy", "text": f"a{i}", "preference": float(i < wins)}
        for i in range(4)
    ]
    other = [
        {"prompt_id": f"p{i}", "source": "other", "text": f"b{i}", "preference": 0.5}
        for i in range(4)
    ]
    for name, rows in (("policy", policy), ("other", other)):
        lines = "".join(f"{json.dumps(r)}\n" for r in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    out = tmp_path / f"win_{wins}.json"
    files = [str(tmp_path / "policy.jsonl"), "--against", str(tmp_path / "other.jsonl")]
    assert winrate([*files, "--by", "preference", "--control", "none", "--out", str(out)]) == 0
    return out


def test_win_rates_of_checkpoints_are_gold_with_their_intervals(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.2], [None, None])
    files = [f"run:{step}={win_file(tmp_path, wins)}" for step, wins in ((0, 1), (2, 3))]
    found = figures(run, "--gold", files[0], "--gold", files[1])[0]
    assert (found["gold_source"], found["peak"]["gold"]) == ("win rate", 0.75)
    # Bootstrap of 3 wins of 4: 0.25 to 1, so a standard error of 0.75 / 3.92.
    assert found["peak"]["gold_standard_error"] == pytest.approx(0.75 / 3.92, abs=0.07)
    assert "win_3.json" in found["peak"]["source"]


COVERAGE = {
    "num_answers": 9,
    "num_scored": 9,
    "num_complete": 9,
    "num_prompts": 9,
    "num_prompts_in_file": 9,
    "judged_weight": 1.0,
    "unknown_causes": {},
}
GRADER = {
    "judge_ids": [],
    "modes": [],
    "template_hashes": [],
    "official": True,
    "differences": [],
}


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": None, "high": None, "num": 9}


def test_benchmarks_stand_beside_gold(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.2], [0.1, 0.2])
    score = {
        "format": "rubric_rl.healthbench/1",
        "overall": {"score": 0.31, "bootstrap_std": 0.02, "num": 9},
        "mean": estimate(0.31),
        "by_example_tag": {},
        "by_criterion_tag": {},
        "num_below_0": 0,
        "coverage": COVERAGE,
        "grader": GRADER,
    }
    path = tmp_path / "hb.json"
    path.write_text(json.dumps(score))
    assert figures(run, "--benchmark", f"run:2={path}")[0]["final"]["benchmark"] == 0.31


@pytest.mark.parametrize(
    ("arguments", "value"), [((), 0.2), (("--prbench-mean", "mean_normalized"), 0.5)]
)
def test_prbench_has_the_mean_that_tables_take_or_the_one_asked_for(
    tmp_path: Path, arguments: tuple[str, ...], value: float
) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.2], [0.1, 0.2])
    means = {
        "mean_normalized": estimate(0.5),
        "mean_clipped": estimate(0.2),
        "std_normalized": None,
        "std_clipped": None,
    }
    score = {
        "format": "rubric_rl.prbench/1",
        "overall": means,
        "by_field": {},
        "by_category": {},
        "coverage": COVERAGE,
        "grader": GRADER,
    }
    path = tmp_path / "pr.json"
    path.write_text(json.dumps(score))
    found = figures(run, "--benchmark", f"run:2={path}", *arguments)[0]
    assert found["final"]["benchmark"] == value


def test_a_last_line_that_is_cut_is_left_out_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.2], [0.1, 0.2])
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 3, "eval/gold_m')
    assert figures(run)[0]["num_evaluations"] == 2
    metrics.write_text("not json\n" + metrics.read_text())
    with pytest.raises(DataError, match="line 1 is not a step's metrics"):
        figures(run)


def test_runs_of_one_name_are_told_apart_by_the_folder_above(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "run", [0.1, 0.2], [0.1, 0.2]) for name in ("a", "b")]
    assert [found["name"] for found in figures(*runs)] == ["a/run", "b/run"]
    with pytest.raises(ConfigError, match="can't be told apart"):
        figures(runs[0], runs[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gold", "run60=win.json"), "is not RUN:STEP=FILE"),
        (("--gold", "other:2=win.json"), "names no run: there are run"),
        (("--gold", "run:2=gone.json"), "gone.json' can't be read"),
        (("--gold", "run:2=x", "--gold-rubrics", "y"), "two gold values"),
        (("--gold-rubrics", "gone.jsonl"), "--gold-rubrics='gone.jsonl' does not exist"),
        (("--confidence", "1.5"), "below 1"),
        ((), "has no gold value"),
    ],
)
def test_what_can_not_be_is_refused_in_words(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    run = make_run(tmp_path / "run", [0.1, 0.2], [None, None])
    with pytest.raises((ConfigError, DataError), match=says):
        main([str(run), *arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run folder"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
