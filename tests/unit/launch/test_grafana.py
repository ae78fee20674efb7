"""The dashboard of Ray's metrics asks for metrics and labels that the pools have."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rubric_rl.runtime import pool_metrics

DASHBOARD = Path(__file__).parents[3] / "launch" / "grafana.json"
# Name, in the pools' own words, and how it is told apart.
LABELS = {
    "pool_queued": {"run", "pool"},
    "pool_in_flight": {"run", "pool", "worker"},
    "pool_worker_up": {"run", "pool", "worker"},
    "pool_samples_total": {"run", "pool", "outcome"},
    "unknown_verdicts_total": {"run", "pool", "cause"},
}


def test_each_metric_has_a_panel_that_names_its_labels() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = set()
    for panel in panels:
        (target,) = panel["targets"]
        (name,) = re.findall(r"ray_rubric_rl_(\w+)", target["expr"])
        grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
        labels = {label for group in grouped for label in group.split(", ")}
        labels |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert labels <= LABELS[name], panel["title"]
        assert ("rate(" in target["expr"]) == name.endswith("_total"), panel["title"]
        shown.add(name)
    assert shown == set(LABELS)


def test_the_names_are_those_of_the_pools() -> None:
    told = set(re.findall(r"^    rubric_rl_(\w+)", pool_metrics.__doc__ or "", re.MULTILINE))
    assert told == set(LABELS)


def test_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert {(p["gridPos"]["w"], p["gridPos"]["h"]) for p in panels} == {(12, 8)}
