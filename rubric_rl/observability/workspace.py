"""The panels of a dashboard, planned from the list of metrics so that they can't drift from it.

A section for each group of METRICS, which is what stands before a name's first slash. A metric has
a panel of its own unless it is read together with others; the most telling panels are in the
overview too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_rl.observability.metrics import METRICS, MetricSpec, check_names
from rubric_rl.observability.wandb_tables import TABLES

_UNKNOWN = "judge/unknown/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Curves over the steps of a run."""

    title: str
    metrics: tuple[str, ...]
    unit: str
    kind: Literal["lines", "stacked"] = "lines"


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSection:
    """Panels under one heading."""

    name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspacePlan:
    """All panels, and the tables beside them."""

    sections: tuple[PanelSection, ...]
    tables: tuple[str, ...]

    @property
    def num_panels(self) -> int:
        return sum(len(section.panels) for section in self.sections) + len(self.tables)


_UNITS = {spec.name: spec.unit for spec in METRICS}


def _panel(title: str, *metrics: str, kind: Literal["lines", "stacked"] = "lines") -> Panel:
    check_names(metrics)
    (unit,) = {_UNITS[name] for name in metrics}
    return Panel(title=title, metrics=metrics, unit=unit, kind=kind)


_HELD_OUT = _panel(
    "Held-out reward", "eval/reward_mean", "eval/anchor_reward_mean", "eval/gold_mean"
)
_PHASES = _panel(
    "Where the time goes",
    "time/rollout_s",
    "time/judge_wait_s",
    "time/reference_s",
    "time/learner_s",
    "time/weight_sync_s",
    "time/refinement_s",
    "time/eval_s",
    kind="stacked",
)
_TOGETHER = (
    _HELD_OUT,
    _PHASES,
    _panel("KL to the reference", "policy/kl_ref", "policy/kl_ref_k1", "policy/kl_ref_k2"),
    _panel("Importance ratio", "policy/ratio_mean", "policy/ratio_min", "policy/ratio_max"),
    _panel("Ratios outside the clip", "policy/ratio_below_frac", "policy/ratio_above_frac"),
    _panel("Gradient norm", "policy/grad_norm", "policy/clipped_grad_norm"),
    _panel(
        "UNKNOWN verdicts by cause",
        *(spec.name for spec in METRICS if spec.name.startswith(_UNKNOWN)),
        kind="stacked",
    ),
    _panel(
        "Proposals by outcome",
        "rubric/accepted",
        "rubric/rejected",
        "rubric/failed",
        kind="stacked",
    ),
    _panel("Ties at the top", "rubric/top_ties_before", "rubric/top_ties_after"),
)
_OVERVIEW = (
    "Held-out reward",
    "reward/mean",
    "reward/top_tie_frac",
    "KL to the reference",
    "policy/entropy",
    "rollout/response_tokens_mean",
    "judge/unscored_frac",
    "judge/spent_usd",
    "Where the time goes",
)
"""Titles of panels."""


def plan_workspace(metrics: Sequence[MetricSpec] = METRICS) -> WorkspacePlan:
    """Every metric is in one section, the overview aside."""
    groups: dict[str, list[MetricSpec]] = {}
    for spec in metrics:
        groups.setdefault(spec.name.partition("/")[0], []).append(spec)
    sections = [
        PanelSection(name=name, panels=tuple(_panels_of(specs))) for name, specs in groups.items()
    ]
    by_title = {panel.title: panel for section in sections for panel in section.panels}
    overview = tuple(by_title[title] for title in _OVERVIEW if title in by_title)
    return WorkspacePlan(
        sections=(PanelSection(name="overview", panels=overview), *sections), tables=TABLES
    )


def plan_text(plan: WorkspacePlan) -> str:
    """The plan as it is shown before anything is made of it."""
    lines = [f"{len(plan.sections) + 1} sections, {plan.num_panels} panels"]
    for section in plan.sections:
        lines += ["", section.name, *(f"  {_panel_line(panel)}" for panel in section.panels)]
    return "\n".join([*lines, "", "tables", *(f"  {name}" for name in plan.tables)]) + "\n"


def _panels_of(specs: Sequence[MetricSpec]) -> Iterator[Panel]:
    """One group's panels, each where its first metric is."""
    shared = {name: panel for panel in _TOGETHER for name in panel.metrics}
    for spec in specs:
        panel = shared.get(spec.name)
        if panel is None:
            yield Panel(title=spec.name, metrics=(spec.name,), unit=spec.unit)
        elif panel.metrics[0] == spec.name:
            yield panel


def _panel_line(panel: Panel) -> str:
    if panel.metrics == (panel.title,):
        return f"{panel.title} [{panel.unit}]"
    kind = ", stacked" if panel.kind == "stacked" else ""
    return f"{panel.title} [{panel.unit}{kind}]: {', '.join(panel.metrics)}"
