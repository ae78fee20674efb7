"""The JSONL files of a run folder, and how rows are picked for a small table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rubric_rl.observability.records import StepRecord, read_rows
from rubric_rl.observability.sinks import JsonlSink, MultiSink, spread_criteria, spread_rows


def _metrics(run_dir: Path) -> list[dict[str, float]]:
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_step_is_one_object_that_starts_with_step_and_time(tmp_path: Path, make_record) -> None:
    sink = JsonlSink(tmp_path, clock=lambda: 1000.12345)
    sink.log(make_record(1, reward__mean=0.5, policy__version=1.0))
    assert _metrics(tmp_path) == [
        {"step": 1, "time": 1000.123, "reward/mean": 0.5, "policy/version": 1.0}
    ]
    assert list(_metrics(tmp_path)[0])[:2] == ["step", "time"]
    sink.close()


def test_metrics_are_on_disk_before_close(tmp_path: Path, make_record) -> None:
    sink = JsonlSink(tmp_path)
    for step in (1, 2):
        sink.log(make_record(step, reward__mean=0.5))
        assert [line["step"] for line in _metrics(tmp_path)] == list(range(1, step + 1))
    sink.close()


def test_rows_go_to_a_file_of_their_phase(tmp_path: Path, make_record, make_row) -> None:
    train, held_out = make_row(step=6), make_row("h1", step=6, phase="eval")
    sink = JsonlSink(tmp_path)
    sink.log(make_record(6, train, held_out))
    sink.close()
    assert read_rows(tmp_path / "samples" / "step_000006.jsonl") == [train]
    assert read_rows(tmp_path / "samples" / "eval_000006.jsonl") == [held_out]
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_criteria_go_to_files_of_the_same_names(tmp_path: Path, make_record, make_stats) -> None:
    train = [make_stats("p1", "c1", step=6), make_stats("p1", "c2", step=6)]
    held_out = make_stats("h1", step=6, phase="eval")
    sink = JsonlSink(tmp_path)
    sink.log(make_record(6, criteria=(*train, held_out)))
    sink.close()
    lines = (tmp_path / "criteria" / "step_000006.jsonl").read_text().splitlines()
    assert [json.loads(line)["cid"] for line in lines] == ["c1", "c2"]
    assert json.loads(lines[0]) == {
        "format": "rubric_rl.criterion/1",
        "step": 6,
        "phase": "train",
        "prompt_id": "p1",
        "cid": "c1",
        "rubric_version": 2,
        "num_verdicts": 8,
        "num_unknown": 4,
        "num_cached": 1,
        "unknown_causes": {"timeout": 3, "missing": 1},
        "pass_rate": 0.75,
        "variance": 0.1875,
        "judge_tokens": 120.0,
        "judge_cost_usd": 0.5,
        "judge_latency_s": 1.25,
    }
    (line,) = (tmp_path / "criteria" / "eval_000006.jsonl").read_text().splitlines()
    assert json.loads(line)["prompt_id"] == "h1"


def test_a_step_without_rows_leaves_no_file(tmp_path: Path, make_record) -> None:
    sink = JsonlSink(tmp_path)
    sink.log(make_record(1))
    sink.close()
    assert list((tmp_path / "samples").iterdir()) == []
    assert list((tmp_path / "criteria").iterdir()) == []


def test_a_second_sink_goes_on_in_the_same_file(tmp_path: Path, make_record) -> None:
    for step in (1, 2):
        sink = JsonlSink(tmp_path)
        sink.log(make_record(step))
        sink.close()
    assert [line["step"] for line in _metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused_and_nothing_written(
    tmp_path: Path, make_record, make_row, value: float
) -> None:
    sink = JsonlSink(tmp_path)
    with pytest.raises(ValueError, match="policy/loss"):
        sink.log(make_record(1, make_row(), policy__loss=value))
    sink.close()
    assert _metrics(tmp_path) == []
    assert list((tmp_path / "samples").iterdir()) == []


def test_an_unlisted_metric_is_refused(tmp_path: Path, make_record) -> None:
    sink = JsonlSink(tmp_path)
    with pytest.raises(ValueError, match="reward/median"):
        sink.log(make_record(1, reward__median=0.5))
    sink.close()


@pytest.mark.parametrize("reopened", [False, True])
def test_a_later_record_of_the_same_step_adds_to_its_object(
    tmp_path: Path, make_record, make_row, reopened: bool
) -> None:
    sink = JsonlSink(tmp_path, clock=lambda: 5.0)
    sink.log(make_record(1))
    sink.log(make_record(2, make_row(step=2), reward__mean=0.5))
    if reopened:
        sink.close()
        sink = JsonlSink(tmp_path, clock=lambda: 6.0)
    sink.log(make_record(2, make_row(step=2, phase="eval"), eval__reward_mean=0.75))
    sink.log(make_record(3))
    sink.close()
    now = 6.0 if reopened else 5.0
    assert _metrics(tmp_path) == [
        {"step": 1, "time": 5.0},
        {"step": 2, "time": now, "reward/mean": 0.5, "eval/reward_mean": 0.75},
        {"step": 3, "time": now},
    ]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "eval_000002.jsonl",
        "step_000002.jsonl",
    ]


def test_an_earlier_step_is_refused(tmp_path: Path, make_record) -> None:
    sink = JsonlSink(tmp_path)
    sink.log(make_record(2))
    with pytest.raises(ValueError, match="step 1 comes after step 2"):
        sink.log(make_record(1))
    sink.close()


class _Recorder:
    def __init__(self, name: str, events: list[str], *, breaks: bool = False) -> None:
        self._name, self._events, self._breaks = name, events, breaks

    def log(self, record: StepRecord) -> None:
        self._events.append(f"{self._name} log {record.step}")

    def close(self) -> None:
        self._events.append(f"{self._name} close")
        if self._breaks:
            raise OSError("disk full")


def test_multi_sink_logs_and_closes_in_order(make_record) -> None:
    events: list[str] = []
    sink = MultiSink([_Recorder("a", events), _Recorder("b", events)])
    sink.log(make_record(1))
    sink.close()
    assert events == ["a log 1", "b log 1", "a close", "b close"]


def test_multi_sink_closes_the_rest_when_one_fails(make_record) -> None:
    events: list[str] = []
    sink = MultiSink([_Recorder("a", events, breaks=True), _Recorder("b", events)])
    with pytest.raises(OSError, match="disk full"):
        sink.close()
    assert events == ["a close", "b close"]


def test_spread_rows_gives_each_prompt_the_same_number(make_row) -> None:
    # 4 prompts x 8 samples into 16 rows: every second one, 4 of each prompt.
    rows = [make_row(f"p{p}", s) for p in range(4) for s in range(8)]
    picked = spread_rows(rows, 16)
    assert Counter(row.prompt_id for row in picked) == dict.fromkeys(("p0", "p1", "p2", "p3"), 4)
    assert [row.sample_index for row in picked[:4]] == [0, 2, 4, 6]


def test_spread_rows_shows_as_many_prompts_as_there_is_room_for(make_row) -> None:
    rows = [make_row(f"p{p}", s) for p in range(6) for s in range(2)]
    assert [row.prompt_id for row in spread_rows(rows, 3)] == ["p0", "p2", "p4"]


def test_spread_rows_keeps_all_when_they_fit_and_none_when_there_is_no_room(make_row) -> None:
    rows = [make_row("p1", 1), make_row("p1", 0)]
    assert [row.sample_index for row in spread_rows(rows, 2)] == [0, 1]
    assert spread_rows(rows, 0) == []


def test_spread_criteria_keeps_the_order_of_the_rubric(make_stats) -> None:
    criteria = [make_stats(p, c) for p in ("p1", "p0") for c in ("c9", "c10")]
    picked = [(c.prompt_id, c.cid) for c in spread_criteria(criteria, 9)]
    assert picked == [("p0", "c9"), ("p0", "c10"), ("p1", "c9"), ("p1", "c10")]
    assert [c.prompt_id for c in spread_criteria(criteria, 2)] == ["p0", "p1"]
