"""`rubric-rl tables`: which record fills which cell, what is refused, where a cell is from."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from rubric_rl import cli
from rubric_rl.commands.tables import main
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.evaluation.labels import Labels, parse_labels
from rubric_rl.observability.records import StepRecord
from rubric_rl.observability.sinks import JsonlSink
from rubric_rl.paper_tables.layout import LAYOUTS, CellKey
from rubric_rl.paper_tables.published import published
from rubric_rl.refinement.analysis import shares

from .conftest import ModelServer
from .test_eval_benchmark import answers, healthbench, prbench

WIN = """{"format": "rubric_rl.winrate/1", "by": "llm", "judge_id": "gpt-4.1", "orders": "flip",
"template_hash": "abcdef012345", "allows_tie": false, "opponent": {"source": "qwen3-8b"},
"figures": {"num_prompts": 1000, "num_pairs": 1000, "wins": 0, "losses": 0, "ties": 0,
"unknown": 0, "unknown_causes": {}, "coverage": 1.0, "controlled": null,
"win_share": {"value": null, "low": null, "high": null, "num": 0},
"loss_share": {"value": null, "low": null, "high": null, "num": 0},
"tie_share": {"value": null, "low": null, "high": null, "num": 0},
"policy_chars_mean": null, "opponent_chars_mean": null}}"""
REGION = """{"region": "high", "num_prompts": 10, "num_pairs": 20, "used": 20, "truth_tied": 0,
"truth_unknown": 0, "rubric_unknown": 0, "right": 0, "wrong": 0, "tied": 0, "split": 0,
"coverage": 1.0, "tie_rate": {"value": 0, "low": 0, "high": 0, "num": 20},
"accuracy_ties_half": {"value": 0.9, "low": 0.8, "high": 1, "num": 20}}"""
TAIL = f"""{{"format": "rubric_rl.tail_accuracy/1", "truth": "gpt-4.1", "margin": null,
"judge_id": "gpt-4.1-mini", "num_gradings": 5,
"regions": [{REGION}, {REGION.replace("high", "low", 1)}]}}"""
GRADER = """{"judge_ids": ["gpt-4.1"], "modes": ["each"], "template_hashes": ["ffffffffffff"],
"official": true, "differences": []}"""
HEALTHBENCH = f"""{{"format": "rubric_rl.healthbench/1", "by_example_tag": {{}},
"by_criterion_tag": {{}}, "num_below_0": 0, "grader": {GRADER}}}"""
PRBENCH = f"""{{"format": "rubric_rl.prbench/1", "by_category": {{}}, "grader": {GRADER}}}"""
COVERAGE = json.loads("""{"num_prompts_in_file": 50, "num_prompts": 40, "num_answers": 40,
"num_scored": 40, "num_complete": 40, "judged_weight": 1.0, "unknown_causes": {}}""")
NOTHING = {"value": None, "low": None, "high": None, "num": 0}


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "num": 1000}


# ----------------------------------------------------------------------------
# Records by hand; the last test has what the commands write


def win(path: Path, value: float, *labels: str, **figures: Any) -> Path:
    """Of 1000 pairs."""
    record = json.loads(WIN)
    record["figures"] |= {"win_rate": estimate(value), **figures}
    return written(path, record, labels)


def tail(path: Path, high: float, low: float, *labels: str) -> Path:
    record = json.loads(TAIL)
    for region, value in zip(record["regions"], (high, low), strict=True):
        region["accuracy_ties_wrong"] = estimate(value)
    return written(path, record, labels)


def benchmark(path: Path, value: float, *labels: str, **coverage: int) -> Path:
    record = json.loads(HEALTHBENCH)
    record |= {"overall": {"score": value, "bootstrap_std": 0.1, "num": 40}}
    record |= {"mean": estimate(value), "coverage": COVERAGE | coverage}
    return written(path, record, labels)


def finance(path: Path, clipped: float, normalized: float, *labels: str) -> Path:
    means = {"mean_clipped": estimate(clipped), "mean_normalized": estimate(normalized)}
    means |= {"std_clipped": None, "std_normalized": None}
    record = json.loads(PRBENCH)
    record |= {"overall": means, "by_field": {"finance": means}, "coverage": COVERAGE}
    return written(path, record, labels)


def written(path: Path, record: dict[str, Any], labels: Sequence[str]) -> Path:
    said = dict(label.split("=") for label in labels)
    steps = {"step": int(said["step"])} if "step" in said else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {"labels": said | steps}))
    return path


def analysis(path: Path, model: str | None = "gpt-4.1", **counts: dict[str, Counter[str]]) -> Path:
    """Of kinds, capabilities and sources, by store."""
    none = {name: Counter[str]() for own in counts.values() for name in own}
    found = {k: asdict(shares(counts.get(k, none))) for k in ("kinds", "capabilities", "sources")}
    basis = {"basis": "operations" if model is None else "llm", "num_read": 9, "num_failed": 0}
    record = {
        "format": "rubric_rl.rubric_analysis/1",
        "classifier": None if model is None else {"model": model},
        "kinds": basis | {"shares": found["kinds"]},
        "capabilities": basis | {"shares": found["capabilities"]},
        "sources": {"num_pairs": 0, "phases": {}, "shares": found["sources"]},
    }
    return written(path, record, ())


def run_folder(path: Path, rewards: Mapping[int, float]) -> Path:
    """A run's metrics: a step in two is evaluated."""
    sink = JsonlSink(path)
    for step, reward in rewards.items():
        values = {"eval/reward_mean": reward, "eval/reward_ci95": 0.05}
        sink.log(StepRecord(step=step, metrics=values, rows=()))
        sink.log(StepRecord(step=step + 1, metrics={"reward/mean": 0.0}, rows=()))
    sink.close()
    return path


def make(folder: Path, *more: str, only: str = "table1,table2,table3,table6") -> None:
    assert main([str(folder / "in"), "--out", str(folder / "out"), "--only", only, *more]) == 0


def cells(folder: Path, name: str) -> dict[tuple[str, ...], float]:
    """Ours by row, column and step."""
    with (folder / "out" / f"{name}.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["value"]]
    return {
        tuple(row[k] for k in ("row", "column", "step") if row[k]): float(row["value"])
        for row in found
    }


def sources(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "out" / f"{name}.sources.json").read_text())


# ----------------------------------------------------------------------------
# Cells


def test_records_fill_their_cells_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    win(folder / "a.json", 0.359, "condition=sft", "domain=filtered")
    win(folder / "b.json", 0.25, "condition=sft", "domain=health", "model=runs/sft")
    win(folder / "c.json", 0.3, "condition=rm_both", "domain=health")
    benchmark(folder / "deep" / "d.json", 0.3, "condition=sft")
    finance(folder / "e.json", 0.2218, 0.6, "condition=base", "domain=finance")
    tail(folder / "f.json", 0.403, 0.662, "condition=initial")
    (folder / "notes.json").write_text('{"format": "something/1"}')
    make(tmp_path)
    assert cells(tmp_path, "table1") == {
        ("base", "prbench"): 0.2218,
        ("sft", "winrate/filtered"): pytest.approx(35.9),
        ("sft", "winrate/health"): 25.0,
        ("sft", "healthbench"): 0.3,
    }
    assert cells(tmp_path, "table6") == {
        ("rm_both", "winrate/health"): 30.0,
        ("sft", "winrate/health"): 25.0,
        ("sft", "healthbench"): 0.3,
    }
    assert cells(tmp_path, "table2") == {
        ("high", "initial"): pytest.approx(40.3),
        ("low", "initial"): pytest.approx(66.2),
    }
    assert cells(tmp_path, "table3") == {}
    shown = (tmp_path / "out" / "table1.md").read_text()
    assert "| SFT | 35.9 [2] |  | 25.0 [3] | 0.3000 [4] |  |  |" in shown
    assert "| Initial, prompt only |  |  |  |  |  |  |" in shown
    assert re.search(
        r"3\. \S+/in/b\.json, figures\.win_rate\.value; sha256 [0-9a-f]{12}; n 1000; 95 % interval "
        r"23\.0 to 27\.0; model runs/sft; gpt-4\.1 \(by llm, one call in random order, no tie "
        r"offered, template abcdef01\), against qwen3-8b\n",
        shown,
    )
    assert "40 of the 50 prompts answered" in shown
    assert sources(tmp_path, "table1")["left_out"] == []
    assert "paper" not in shown.split("\n\n")[1]


def test_the_mean_of_prbench_can_be_chosen(tmp_path: Path) -> None:
    finance(tmp_path / "in" / "a.json", 0.25, 0.6, "condition=sft")
    make(tmp_path, "--prbench-mean", "mean_normalized")
    assert cells(tmp_path, "table1") == {("sft", "prbench"): 0.6}


def test_a_clipped_score_has_a_clipped_interval(tmp_path: Path) -> None:
    benchmark(tmp_path / "in" / "a.json", 0.01, "condition=base")
    make(tmp_path)
    (cell,) = sources(tmp_path, "table1")["cells"]
    assert (cell["low"], cell["high"]) == (0.0, pytest.approx(0.03))


def test_steps_are_points_of_figure_4_and_a_table_shows_the_one_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for step, rate in ((0, 0.1), (106, 0.3), (200, 0.2)):
        labels = ("condition=great_pairs", "domain=health", f"step={step}")
        win(folder / f"win{step}.json", rate, *labels)
    win(folder / "sft.json", 0.25, "condition=sft", "domain=health")
    win(folder / "base.json", 0.08, "condition=base", "domain=health")
    run_folder(folder / "run", {0: 0.5, 10: 0.6})
    label = f"{folder / 'run'}:condition=great_pairs,domain=health"
    make(tmp_path, "--table-step", "health=106", "--label", label, only="table1,figure4")
    assert cells(tmp_path, "table1") == {
        ("base", "winrate/health"): 8.0,
        ("sft", "winrate/health"): 25.0,
        ("great_pairs", "winrate/health"): 30.0,
    }
    assert cells(tmp_path, "figure4") == {
        ("base", "winrate/health", "0"): 8.0,
        ("sft", "winrate/health"): 25.0,
        ("great_pairs", "winrate/health", "0"): 10.0,
        ("great_pairs", "winrate/health", "106"): 30.0,
        ("great_pairs", "winrate/health", "200"): 20.0,
        ("great_pairs", "reward/health", "0"): 0.5,
        ("great_pairs", "reward/health", "10"): 0.6,
    }
    drawn = (tmp_path / "out" / "figure4.svg").read_text()
    assert "Health, held-out reward" in drawn and "4 great pairs" in drawn
    assert "1 good pair" not in drawn and "the paper's" not in drawn


def test_figure_4_has_a_refined_runs_reward_under_its_first_rubrics(tmp_path: Path) -> None:
    path = run_folder(tmp_path / "in" / "run", {0: 0.5, 10: 0.3}) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["eval/anchor_reward_mean"] = 0.7  # the rubrics in force got harder
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    make(tmp_path, "--label", f"{path.parent}:condition=great_pairs,domain=health", only="figure4")
    assert cells(tmp_path, "figure4") == {
        ("great_pairs", "reward/health", "0"): 0.5,
        ("great_pairs", "reward/health", "10"): 0.7,
    }
    assert "eval/anchor_reward_mean" in (tmp_path / "out" / "figure4.csv").read_text()


def test_an_analysis_gives_table_3_and_figures_5_and_6(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    good_and_great = {
        "good": Counter({"penalty": 3, "explicit": 1}),
        "great": Counter({"penalty": 1, "explicit": 5}),
    }
    analysis(folder / "pairs.json", kinds=good_and_great)
    best = {
        "great_diverse_pairs": Counter({"openai/gpt-4.1": 3, "GPT 4.1": 1, "glm-4.5": 4, "new": 8})
    }
    causes = {"great_diverse_pairs": Counter({"causes": 2})}
    analysis(folder / "best.json", capabilities=causes, sources=best)
    make(tmp_path, only="table3,figure5,figure6")
    assert cells(tmp_path, "table3") == {
        ("explicit", "kind/share"): 60.0,
        ("explicit", "kind/great"): pytest.approx(100 * 5 / 6),
        ("explicit", "kind/good"): pytest.approx(100 / 6),
        ("penalty", "kind/share"): 40.0,
        ("penalty", "kind/great"): 25.0,
        ("penalty", "kind/good"): 75.0,
    }
    assert cells(tmp_path, "figure5") == {("causes", "capability"): 100.0}
    # Two names of one pool that read alike stay apart.
    assert cells(tmp_path, "figure6") == {
        ("GLM-4.5", "source"): 25.0,
        ("GPT-4.1", "source"): 18.75,
        ("GPT 4.1", "source"): 6.25,
        ("new", "source"): 50.0,
    }


def test_kinds_that_no_model_sorted_are_not_the_papers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"good": Counter({"added": 3}), "great": Counter({"added": 1})}
    analysis(tmp_path / "in" / "a.json", None, kinds=counts)
    make(tmp_path)
    assert cells(tmp_path, "table3") == {}
    assert "sorted without a model, so not into the paper's categories" in capsys.readouterr().out


# ----------------------------------------------------------------------------
# The paper's figures


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (("table1", "base", "winrate/filtered"), 5.2),
        (("table1", "good_pair", "winrate/lmarena"), 32.8),
        (("table1", "great_diverse_pairs", "prbench"), 0.3018),
        (("table2", "high", "great_pairs"), 49.2),
        (("table2", "low", "great_diverse_pairs"), 69.8),
        (("table3", "explicit", "kind/share"), 16.7),
        (("table3", "correction", "kind/good"), 67.2),
        (("table6", "rm_off_policy", "winrate/health"), 22.4),
        (("table6", "sft", "healthbench"), 0.3094),
        (("figure4", "great_pairs", "winrate/health", 140), 33.9),
        (("figure4", "initial", "winrate/health", 200), 13.7),
        (("figure4", "great_pairs", "winrate/finance", 160), 52.9),
        (("figure4", "base", "winrate/health", 0), 8.3),
        (("figure5", "history", "capability"), 0.13),
        (("figure6", "DeepSeek-R1", "source"), 5.62),
    ],
)
def test_some_of_the_papers_figures(cell: tuple[Any, ...], value: float) -> None:
    exhibit, row, column, *step = cell
    key = CellKey(exhibit=exhibit, row=row, column=column, step=step[0] if step else None)
    assert published()[key] == value


def test_the_papers_figures_agree_with_each_other() -> None:
    found = published()
    total = Counter[tuple[str, str]]()
    for key, value in found.items():
        layout = LAYOUTS[key.exhibit]
        assert key.row in layout.rows and key.column in layout.columns
        total[key.exhibit, key.column] += value
    for key, value in found.items():
        # Its Table 1 is step 106 of the benchmark and step 320 of finance in its Figure 4.
        last = 106 if key.column == "healthbench" else 320
        if key.exhibit == "figure4" and key.step == last:
            assert found[CellKey(exhibit="table1", row=key.row, column=key.column)] == value
        if key.column == "kind/great":
            assert value + found[replace(key, column="kind/good")] == pytest.approx(100)
    for whole in (("table3", "kind/share"), ("figure5", "capability"), ("figure6", "source")):
        assert total[whole] == pytest.approx(100, abs=0.15)


def test_the_papers_figures_stand_beside_ours_where_asked(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "out"), "--paper"]) == 0
    shown = (tmp_path / "out" / "table1.md").read_text()
    assert "| SFT |  | 35.9 |  | 29.6 |  | 25.8 |  | 0.2999 |  | 26.0 |  | 0.2218 |" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    for name, layout in LAYOUTS.items():
        endings = ("png", "svg") if layout.is_figure else ("md", "csv")
        assert {f"{name}.{end}" for end in (*endings, "sources.json")} <= names
        assert sources(tmp_path, name)["cells"] == []
    assert "the paper's" in (tmp_path / "out" / "figure4.svg").read_text()
    (header, first, *_) = (tmp_path / "out" / "figure2a.csv").read_text().splitlines()
    assert (header.split(",")[:2], first) == (["kl_nats", "Correct"], "0,0.5,0.5,0.5,0.5,0.5,0.5")


# ----------------------------------------------------------------------------
# Traces


def at(content: Any, field: str) -> float:
    """What stands at a field, such as `regions[1].tie_rate.value`."""
    for key, place in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field):
        content = content[int(place)] if place else content[key]
    return content


def test_every_cell_leads_to_its_file_and_field(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    win(folder / "a.json", 0.3, "condition=initial", "domain=lmarena")
    benchmark(folder / "b.json", 0.4, "condition=initial")
    finance(folder / "c.json", 0.5, 0.6, "condition=initial")
    tail(folder / "d.json", 0.45, 0.65, "condition=initial")
    counts = {"good_pair": Counter({"tone": 1}), "great_pair": Counter({"tone": 1, "risk": 2})}
    analysis(folder / "e.json", kinds=counts)
    run_folder(folder / "run", {0: 0.5, 10: 0.75})
    label = f"{folder}/run/*:condition=initial,domain=finance"
    names = [name for name, layout in LAYOUTS.items() if layout.columns]
    make(tmp_path, "--label", label, only=",".join(names))
    found = [cell for name in names for cell in sources(tmp_path, name)["cells"]]
    assert len(found) == 3 + 1 + 2 + 6 + 2
    for cell in found:
        data = Path(cell["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == cell["sha256"]
        if line := re.fullmatch(r"line (\d+): (.+)", cell["field"]):
            value = json.loads(data.splitlines()[int(line[1]) - 1])[line[2]]
        else:
            value = at(json.loads(data), cell["field"])
        assert cell["value"] == value
        assert cell["shown"] == value * cell["scale"]


def test_a_column_of_several_judges_says_so(tmp_path: Path) -> None:
    win(tmp_path / "in" / "a.json", 0.3, "condition=initial", "domain=health")
    other = win(tmp_path / "in" / "b.json", 0.4, "condition=sft", "domain=health")
    other.write_text(other.read_text().replace('"flip"', '"both"'))
    make(tmp_path, only="table1")
    (note,) = sources(tmp_path, "table1")["notes"]
    assert note.startswith("Health win %: not all were measured in the same way")
    assert "(by llm, both orders" in note and "(by llm, one call in random order" in note


# ----------------------------------------------------------------------------
# Several records, labels


def test_two_records_for_a_cell_are_refused_unless_the_newest_is_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    old = win(folder / "z_old.json", 0.3, "condition=sft", "domain=health")
    new = win(folder / "a_new.json", 0.4, "condition=sft", "domain=health")
    os.utime(old, (1, 1))
    with pytest.raises(DataError, match=r"fill table1, SFT, Health win %: .*a_new.*z_old"):
        make(tmp_path)
    assert not (tmp_path / "out").exists()
    make(tmp_path, "--latest")
    assert cells(tmp_path, "table1") == {("sft", "winrate/health"): 40.0}
    (cell,) = sources(tmp_path, "table1")["cells"]
    assert (cell["file"], cell["passed_over"]) == (str(new), [str(old)])
    # The same file reached twice is one record.
    assert main([str(new), str(folder / "." / "a_new.json"), "--dry-run"]) == 0


def test_two_runs_are_never_one_curve(tmp_path: Path) -> None:
    run_folder(tmp_path / "in" / "long", {0: 0.1, 10: 0.2, 20: 0.3})
    run_folder(tmp_path / "in" / "new", {0: 0.5, 15: 0.6})
    os.utime(tmp_path / "in" / "long" / "metrics.jsonl", (1, 1))
    label = ("--label", f"{tmp_path}/in:condition=initial,domain=health")
    with pytest.raises(DataError, match="2 records fill figure4, Initial"):
        make(tmp_path, *label, only="figure4")
    make(tmp_path, *label, only="table1")
    make(tmp_path, *label, "--latest", only="figure4")
    assert cells(tmp_path, "figure4") == {
        ("initial", "reward/health", "0"): 0.5,
        ("initial", "reward/health", "15"): 0.6,
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--label", "{}/in/a.json:condition=base"],
            "says condition=base, and condition=sft",
        ),
        (["--label", "{}/in/b*:domain=health"], "fits no record that was found"),
        (["--label", "{}/in/a.json:colour=red"], "want KEY=VALUE, KEY one of condition, domain"),
        (["--label", "condition=sft"], "want FILE:KEY=VALUE"),
        (["--only", "table1,table4"], "--only 'table4': want some of table1"),
        (["--table-step", "law=3"], "want DOMAIN=STEP"),
        (["--min-coverage", "2"], "want a share"),
    ],
)
def test_wrong_arguments(tmp_path: Path, more: list[str], message: str) -> None:
    win(tmp_path / "in" / "a.json", 0.3, "condition=sft", "domain=health")
    words = [word.replace("{}", str(tmp_path)) for word in more]
    with pytest.raises(ConfigError, match=message):
        main([str(tmp_path / "in"), "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_labels_of_an_evaluation_are_checked() -> None:
    assert parse_labels(["condition=sft", "step=0"]) == Labels(condition="sft", step=0)
    for wrong in (["step=1.5"], ["step=-1"], ["condition="], ["domain"], ["step=1", "step=2"]):
        with pytest.raises(ConfigError, match="--label"):
            parse_labels(wrong)


def test_what_is_in_no_table_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    win(folder / "a.json", 0.3)
    win(folder / "b.json", 0.3, "condition=mine", "domain=health")
    win(folder / "c.json", 0.3, "condition=sft", "domain=law")
    run_folder(folder / "run", {})
    (folder / "run" / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    make(tmp_path)
    told = capsys.readouterr().out
    assert "a.json: winrate: which condition it is of isn't said" in told
    assert "b.json: winrate: condition=mine is none of base, sft" in told
    assert "c.json: winrate: its domain law is none of the paper's" in told
    assert "metrics.jsonl: has no evaluation" in told
    assert cells(tmp_path, "table1") == {}


# ----------------------------------------------------------------------------
# Records that can't be used


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def other_version(path: Path) -> None:
    path.write_text(path.read_text().replace("winrate/1", "winrate/2"))


def no_number(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 0.3,', '"value": NaN,'))


def wrong_type(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 0.3,', '"value": "0.3",'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "is damaged or of another version: the file: "),
        (other_version, "has version 2 of its format, and only 1 is known"),
        (no_number, "figures.win_rate.value is not a finite number"),
        (wrong_type, "is damaged or of another version: figures.win_rate.value: "),
    ],
)
def test_a_damaged_record_is_refused_and_its_cell_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, reason: str
) -> None:
    damage(win(tmp_path / "in" / "a.json", 0.3, "condition=sft", "domain=health"))
    win(tmp_path / "in" / "b.json", 0.5, "condition=base", "domain=health")
    with pytest.raises(DataError, match="1 records can't be used"):
        make(tmp_path)
    assert f"refused: {tmp_path / 'in' / 'a.json'}: {reason}" in capsys.readouterr().out
    assert cells(tmp_path, "table1") == {("base", "winrate/health"): 50.0}
    (left_out,) = sources(tmp_path, "table1")["left_out"]
    assert left_out["reason"].startswith(reason)


def test_unfinished_records_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    win(folder / "few.json", 0.3, "condition=sft", "domain=health", coverage=0.6)
    win(folder / "none.json", 0.3, "condition=base", "domain=health", win_rate=NOTHING)
    benchmark(folder / "hb.json", 0.3, "condition=sft", num_scored=20)
    benchmark(folder / "law.json", 0.3, "condition=base", "domain=finance")
    cut(run_folder(folder / "run", {0: 0.5}) / "metrics.jsonl")
    with pytest.raises(DataError, match="5 records can't be used"):
        make(tmp_path)
    told = capsys.readouterr().out
    assert "few.json: 60.0% of the pairs are judged, less than --min-coverage 0.9" in told
    assert "none.json: has no value in figures.win_rate" in told
    assert "hb.json: 50.0% of the answers are judged" in told
    assert "law.json: is labelled domain=finance, but the benchmark is of health" in told
    assert "metrics.jsonl: its last line is cut" in told
    assert cells(tmp_path, "table1") == {}


def test_named_files_must_be_records(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="1 records can't be used"):
        main([str(tmp_path / "a.json"), "--dry-run"])
    with pytest.raises(DataError, match="does not exist"):
        main([str(tmp_path / "b"), "--dry-run"])


def test_a_dry_run_lists_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = win(tmp_path / "in" / "a.json", 0.3, "condition=sft", "domain=health")
    with pytest.raises(ConfigError, match="--out is missing"):
        main([str(path)])
    assert main([str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"table1, SFT, Health win %: {path}, figures.win_rate.value; sha256 " in told
    assert f"figure4, SFT, Health win %: {path}" in told
    assert "table1: 1 of 42 cells" in told
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------
# What the commands themselves write


def test_outputs_of_the_evaluations_are_records(tmp_path: Path, model_server: ModelServer) -> None:
    judge = [o for o in model_server.overrides if not o.startswith("refinement")]
    healthbench(tmp_path / "hb.jsonl")
    answers(tmp_path / "own.jsonl", "p0", "p1")
    other = answers(tmp_path / "other.jsonl", "p0", "p1")
    other.write_text(other.read_text().replace("policy", "base").replace("Rest.", "Rest, and tea."))
    label = ["--label", "condition=great_pair", "--label", "step=7"]
    own, folder = str(tmp_path / "own.jsonl"), tmp_path / "in"
    rubrics = ["--rubrics", str(tmp_path / "hb.jsonl")]

    def evaluate(name: str, *words: str) -> None:
        out = ["--out", str(folder / f"{name}.json")]
        assert cli.main(["eval", name, *words, *out, *label, *judge]) == 0

    prompts = ["--prompts", str(tmp_path / "hb.jsonl"), "--label", "domain=health"]
    evaluate("winrate", own, "--against", str(other), *prompts)
    evaluate("healthbench", own, *rubrics)
    pool = tmp_path / "pool.jsonl"
    pool.write_text((tmp_path / "own.jsonl").read_text() + other.read_text())
    price = "usd_per_million_prompt_tokens=1,usd_per_million_completion_tokens=1"
    truth = f"model=judge,base_url={model_server.base_url}/v1,{price}"
    regions = ["--high", "policy,base", "--gradings", "1"]
    evaluate("tail", str(pool), *rubrics, "--truth", truth, *regions)
    prbench(tmp_path / "pr.jsonl")
    (prompt,) = (json.loads((tmp_path / "pr.jsonl").read_text())["task"],)
    rubrics = ["--rubrics", str(tmp_path / "pr.jsonl")]
    answers(tmp_path / "own.jsonl", prompt)
    evaluate("prbench", own, *rubrics)
    steps = ["--table-step", "health=7", "--table-step", "finance=7"]
    make(tmp_path, *steps, only="table1,table2")
    # The longer answer is better; both HealthBench criteria are met: (6 - 2) / 6.
    assert cells(tmp_path, "table1") == {
        ("great_pair", "winrate/health"): 0.0,
        ("great_pair", "healthbench"): pytest.approx(2 / 3),
        ("great_pair", "prbench"): pytest.approx(0.5),
    }
    assert cells(tmp_path, "table2") == {("high", "great_pair"): 0.0}
