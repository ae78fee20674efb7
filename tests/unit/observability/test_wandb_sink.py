"""W&B: which mode is chosen, what is recorded offline, and that it can't stop a run."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.config.schema import Config
from rubric_rl.errors import ConfigError
from rubric_rl.observability.records import StepRecord
from rubric_rl.observability.wandb_sink import WandbSink
from rubric_rl.observability.wandb_tables import tables_of
from rubric_rl.refinement.records import NewCriterion, Operation, Revision

from ...records import gate_figures
from .wandb_records import histories, records, run_file

pytestmark = pytest.mark.usefixtures("wandb_apart")


def _config(run_dir: Path, mode: str) -> Config:
    values: dict[str, Any] = {name: {} for name in Config.model_fields}
    values |= {
        "run": {"dir": str(run_dir)},
        "model": {"name_or_path": "m"},
        "data": {"path": "d"},
        "logging": {"wandb": {"mode": mode}, "sample_table_rows": 2},
    }
    return Config.model_validate(values)


def _open(run_dir: Path, mode: str, *, resumed_at: int | None = None) -> WandbSink:
    return WandbSink(_config(run_dir, mode), run_dir, "abc123", resumed_at)


def test_disabled_records_nothing(tmp_path: Path, make_record) -> None:
    sink = _open(tmp_path, "disabled")
    sink.log(make_record(1, reward__mean=0.5))
    sink.close()
    assert sink.notice == "W&B: disabled (logging.wandb.mode=disabled)"
    assert not (tmp_path / "wandb").exists()


def test_without_a_key_it_is_offline_and_says_so(
    tmp_path: Path, capfd, caplog, make_record, make_row, make_stats
) -> None:
    with caplog.at_level(logging.INFO, logger="rubric_rl"):
        sink = _open(tmp_path, "auto")
    assert sink.notice.startswith("W&B: offline (no API key found); upload with: wandb sync ")
    ours = [record for record in caplog.records if record.name.startswith("rubric_rl.")]
    assert [record.getMessage() for record in ours] == [sink.notice]
    rows = [make_row(f"p{p}", s) for p in range(2) for s in range(3)]
    criteria = tuple(make_stats(f"p{p}", f"c{c}") for p in range(2) for c in range(3))
    sink.log(make_record(1, *rows, criteria=criteria, reward__mean=0.5))
    sink.log(make_record(2, reward__mean=0.6))
    sink.close()
    assert sink.num_failures == 0
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-abc123")
    assert (folder / "run-abc123.wandb").stat().st_size > 0
    (table,) = folder.glob("files/media/table/samples_*.json")
    text = table.read_text(encoding="utf-8")
    assert text.count("See a doctor.") == 2
    assert "[met] 1 names a doctor: because" in text
    (table,) = folder.glob("files/media/table/criteria_*.json")
    held = json.loads(table.read_text(encoding="utf-8"))
    rows = [dict(zip(held["columns"], row, strict=True)) for row in held["data"]]
    assert [(row["prompt_id"], row["cid"]) for row in rows] == [("p0", "c0"), ("p1", "c0")]
    assert rows[0]["unknown_causes"] == "timeout 3, missing 1"
    assert (rows[0]["pass_rate"], rows[0]["judge_cost_usd"]) == (0.75, 0.5)
    assert capfd.readouterr() == ("", "")


def test_a_refinement_is_a_table_of_changes(make_record) -> None:
    gate = gate_figures(3, 1)
    new = NewCriterion(text="Names a dose.", weight=2.0)
    accepted = Revision(
        prompt_id="p1",
        number=2,
        status="accepted",
        version=1,
        parent_version=0,
        rubric=None,
        author="writer",
        template_hash="t",
        round=1,
        phase="step 6",
        evidence=("m#0:aa", "m#1:bb"),
        operations=(Operation(op="add", criteria=(new,), reason="they differ"),),
        gate=gate,
        cost_usd=0.5,
    )
    failed = replace(accepted, number=3, status="failed", operations=(), gate=None, reasons=("no",))
    record = replace(make_record(6), revisions=(failed, accepted))
    (table,) = tables_of(record, 10)
    assert table.name == "rubric_changes"
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert first["status"] == "accepted"
    assert first["changes"] == "+ (2) Names a dose.  [they differ]"
    assert first["gate"].startswith("top ties 3 -> 1 of 6 pairs")  # type: ignore[union-attr]
    assert (first["top_ties_before"], first["top_ties_after"], first["cost_usd"]) == (3, 1, 0.5)
    assert (second["status"], second["why_not"], second["gate"]) == ("failed", "no", None)


def test_a_failure_after_the_start_is_one_warning_and_the_end_of_the_sink(
    tmp_path: Path, caplog, make_record
) -> None:
    import wandb

    sink = _open(tmp_path, "auto", resumed_at=-1)
    assert sink.is_active
    wandb.finish()  # whatever happens behind our back: the next call fails
    for step in (1, 2):
        sink.log(make_record(step, reward__mean=0.5))
    sink.close()
    assert not sink.is_active
    assert sink.num_failures == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B failed (log) and is switched off: UsageError: ")


def test_an_unlisted_metric_is_our_bug_and_not_hidden(tmp_path: Path, make_record) -> None:
    sink = _open(tmp_path, "disabled")
    with pytest.raises(ValueError, match="reward/median"):
        sink.log(make_record(1, reward__median=0.5))


def test_online_without_a_key_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode='online'.*Log in \(wandb login\)"):
        _open(tmp_path, "online")


def test_wandb_mode_decides_for_auto(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert _open(tmp_path, "auto").notice == "W&B: disabled (WANDB_MODE=disabled)"


def test_a_server_that_is_down_means_offline(
    tmp_path: Path, monkeypatch, caplog, make_record
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("rubric_rl.observability.wandb_sink._START_TIMEOUT_S", 1.0)
    sink = _open(tmp_path, "auto", resumed_at=-1)
    assert sink.notice.startswith("W&B: offline (no connection)")
    assert sink.num_failures == 1
    assert "Recording offline instead" in caplog.text
    assert "0" * 40 not in caplog.text
    sink.log(make_record(1, reward__mean=0.5))
    sink.close()
    assert sink.num_failures == 1


def _recorded(tmp_path: Path, sink: WandbSink, *told: StepRecord) -> list[Any]:
    """All that W&B has written of the process that told these and then closed."""
    for record in told:
        sink.log(record)
    sink.close()
    folder = max((tmp_path / "wandb").glob("offline-run-*"), key=lambda path: path.name)
    time.sleep(1.1)  # W&B names its folders by the second
    return records(run_file(folder))


def test_a_resumed_run_goes_on_in_the_same_run_and_tells_no_record_twice(
    tmp_path: Path, make_record
) -> None:
    def told(*steps: int) -> list[StepRecord]:
        # Of step 2 there are two records: its own, and that of a refinement.
        return [make_record(step, reward__mean=step / 2) for step in steps]

    first = _recorded(tmp_path, _open(tmp_path, "offline"), *told(0, 1, 2, 2, 3))
    assert {r.run.run_id for r in first if r.HasField("run")} == {"abc123"}
    axes = {r.metric.name: r.metric.step_metric for r in first if r.HasField("metric")}
    assert axes["reward/mean"] == "step"
    assert [(h["step"], h["reward/mean"]) for h in histories(first)] == [
        (step, step / 2) for step in (0, 1, 2, 2, 3)
    ]
    # An evaluation of step 1 was cut off, 2 and 3 are repeated, 3 gets a second record.
    sink = _open(tmp_path, "offline", resumed_at=1)
    second = _recorded(tmp_path, sink, *told(1, 2, 2, 3, 3, 4))
    assert {r.run.run_id for r in second if r.HasField("run")} == {"abc123"}
    assert [h["step"] for h in histories(second)] == [1, 3, 4]
    # Resumed at the same checkpoint again, it still knows what the first two told.
    third = _recorded(tmp_path, _open(tmp_path, "offline", resumed_at=1), *told(2, 2, 3, 3, 4, 5))
    assert [h["step"] for h in histories(third)] == [5]


@pytest.mark.parametrize("left", [None, "3 x"])
def test_what_a_killed_process_told_is_told_again(
    tmp_path: Path, make_record, left: str | None
) -> None:
    if left is not None:
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "abc123.told").write_text(left, encoding="utf-8")
    sink = _open(tmp_path, "offline", resumed_at=1)
    written = _recorded(tmp_path, sink, make_record(2, reward__mean=0.5))
    assert [h["step"] for h in histories(written)] == [2]


class _Server(BaseHTTPRequestHandler):
    """As much of W&B as a start needs; whatever is uploaded never gets an answer."""

    protocol_version = "HTTP/1.1"
    released: threading.Event
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(body)
        if self.path != "/graphql" or b"CreateRunFiles" in body:
            self.released.wait()
            self.close_connection = True
            return
        project = {"name": "p", "entity": {"name": "e"}}
        bucket = {"id": "i", "name": "abc123", "displayName": "d", "project": project}
        upsert = {"bucket": bucket, "inserted": True}
        viewer = {"id": "u", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}}
        data = {"upsertBucket": upsert, "viewer": viewer, "serverInfo": None, "model": None}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stuck_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import wandb

    wandb.teardown()  # it has read the address of the tests before
    _Server.released = threading.Event()
    _Server.bodies = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        _Server.released.set()
        wandb.teardown()
        server.shutdown()


def test_a_network_that_is_gone_at_the_end_holds_nobody_up(
    tmp_path: Path, monkeypatch, caplog, make_record, stuck_server: None
) -> None:
    monkeypatch.setattr("rubric_rl.observability.wandb_sink._FINISH_TIMEOUT_S", 2.0)
    sink = _open(tmp_path, "online")
    sink.log(make_record(1, reward__mean=0.5))
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 20
    assert sink.num_failures == 1
    (folder,) = (tmp_path / "wandb").glob("run-*-abc123")
    assert f"TimeoutError: Timed out finishing run. Upload the rest with: wandb sync {folder}" in (
        caplog.text
    )


@pytest.mark.parametrize("resumed_at", [None, 3])
def test_only_a_resumed_run_asks_the_server_for_what_it_has_of_this_run(
    tmp_path: Path, monkeypatch, stuck_server: None, resumed_at: int | None
) -> None:
    monkeypatch.setattr("rubric_rl.observability.wandb_sink._FINISH_TIMEOUT_S", 1.0)
    sink = _open(tmp_path, "online", resumed_at=resumed_at)
    sink.close()
    asked = [json.loads(body) for body in _Server.bodies if b"RunResumeStatus" in body]
    assert [request["variables"]["name"] for request in asked] == (
        [] if resumed_at is None else ["abc123"]
    )
