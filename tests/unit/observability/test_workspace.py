"""The panels of the W&B workspace: planned from the metrics, and as W&B's library sends them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rubric_rl.cli import main
from rubric_rl.observability.metrics import METRICS, NAMES, MetricSpec
from rubric_rl.observability.wandb_workspace import WorkspaceTarget, build_workspace
from rubric_rl.observability.workspace import plan_workspace

pytestmark = pytest.mark.usefixtures("wandb_apart")

TARGET = WorkspaceTarget(entity="e", project="p", name="Rubrics")


# ----------------------------------------------------------------------------
# The plan


def test_every_metric_is_in_the_one_section_of_its_group() -> None:
    overview, *sections = plan_workspace().sections
    found = Counter(name for s in sections for panel in s.panels for name in panel.metrics)
    assert found == Counter(NAMES)  # each once
    groups = [section.name for section in sections]
    assert len(set(groups)) == len(groups)
    for section in sections:
        for panel in section.panels:
            assert {name.partition("/")[0] for name in panel.metrics} == {section.name}
    assert overview.name == "overview"
    assert all(any(panel in s.panels for s in sections) for panel in overview.panels)
    assert len(overview.panels) == 9


def test_metrics_that_are_read_together_share_a_panel_and_others_have_their_own() -> None:
    panels = {panel.title: panel for s in plan_workspace().sections for panel in s.panels}
    ratio = panels["Importance ratio"]
    assert ratio.metrics == ("policy/ratio_mean", "policy/ratio_min", "policy/ratio_max")
    assert (ratio.unit, ratio.kind) == ("ratio", "lines")
    assert panels["Where the time goes"].kind == "stacked"
    causes = panels["UNKNOWN verdicts by cause"].metrics
    assert len(causes) == sum(spec.name.startswith("judge/unknown/") for spec in METRICS) == 16
    assert panels["policy/entropy"].metrics == ("policy/entropy",)


def test_a_metric_that_is_added_has_a_panel() -> None:
    added = MetricSpec("novel/thing", "share", "what was added")
    plan = plan_workspace((*METRICS, added))
    (panel,) = plan.sections[-1].panels
    assert (plan.sections[-1].name, panel.title, panel.unit) == ("novel", "novel/thing", "share")


def test_a_dry_run_prints_the_panels_and_needs_no_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["workspace", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = plan_workspace()
    assert lines[0] == f"{len(plan.sections) + 1} sections, {plan.num_panels} panels"
    assert "  policy/entropy [nats]" in lines
    assert "  Ties at the top [count]: rubric/top_ties_before, rubric/top_ties_after" in lines
    assert lines[-4:] == ["tables", "  samples", "  criteria", "  rubric_changes"]


def test_without_a_login_nothing_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workspace"]) == 2
    assert "no W&B login was found: run wandb login" in capsys.readouterr().err


# ----------------------------------------------------------------------------
# The workspace


def library() -> None:
    pytest.importorskip("wandb_workspaces", reason="installed by launch/setup.sh")


def as_sent(spec: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    bank = spec["section"]["panelBankConfig"]
    return [(section["name"], section["panels"]) for section in bank["sections"]]


def test_the_library_is_given_every_panel_with_the_step_as_its_axis() -> None:
    library()
    plan = plan_workspace()
    model = build_workspace(plan, TARGET)._to_model()
    assert (model.entity, model.project, model.display_name) == ("e", "p", "Rubrics")
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    assert spec["section"]["settings"]["xAxis"] == "step"
    *sections, (tables_name, tables) = as_sent(spec)
    for (name, panels), planned in zip(sections, plan.sections, strict=True):
        assert name == planned.name
        drawn = [panel["config"] for panel in panels]
        assert [tuple(config["metrics"]) for config in drawn] == [p.metrics for p in planned.panels]
        assert {config["xAxis"] for config in drawn} == {"step"}
        stacked = [config.get("plotType") == "stacked-area" for config in drawn]
        assert stacked == [panel.kind == "stacked" for panel in planned.panels]
    assert (tables_name, len(tables)) == ("tables", 3)
    assert all(name in json.dumps(tables) for name in ("samples", "criteria", "rubric_changes"))


class _Server(BaseHTTPRequestHandler):
    """As much of W&B as a view needs to be saved."""

    protocol_version = "HTTP/1.1"
    saved: list[dict[str, Any]]
    is_refusing: bool

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_save = "upsertView" in request.get("query", "")
        if is_save:
            self.saved.append(request["variables"])
        view = {"view": {"id": "id1", "name": request.get("variables", {}).get("name")}}
        viewer = {"id": "u", "entity": "team", "username": "u", "flags": "{}"}
        data = {"upsertView": view, "viewer": viewer, "serverInfo": None}
        self._answer(403 if is_save and self.is_refusing else 200, {"data": data})

    def do_GET(self) -> None:
        self._answer(200, {})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Server]]:
    library()
    import wandb

    wandb.teardown()  # it has read the address of the tests before
    _Server.saved, _Server.is_refusing = [], False
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_port}")
        yield _Server
        wandb.teardown()
        listening.shutdown()


def test_the_command_saves_the_workspace_and_prints_its_address(
    server: type[_Server], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["workspace", "--project", "p", "--name", "Ours"]) == 0
    (saved,) = server.saved
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == (
        "team",  # the account's own
        "p",
        "Ours",
    )
    names = [name for name, _ in as_sent(json.loads(saved["spec"]))]
    assert names == [*(s.name for s in plan_workspace().sections), "tables"]
    out = capsys.readouterr().out
    assert "/team/p?nw=" in out and out.endswith(f": {plan_workspace().num_panels} panels\n")


def test_a_refusal_is_told_in_words(
    server: type[_Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.is_refusing = True
    assert main(["workspace", "--entity", "e", "--project", "p"]) == 2
    err = capsys.readouterr().err
    assert "error: W&B can't save a workspace in project 'p': " in err
    assert "may you write to it?" in err
    assert "0" * 40 not in err
