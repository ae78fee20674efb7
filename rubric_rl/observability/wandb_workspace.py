"""A planned dashboard as a W&B workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rubric_rl.errors import ConfigError
from rubric_rl.observability.wandb_sink import has_login
from rubric_rl.observability.workspace import Panel, WorkspacePlan

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as workspaces

_STEP = "step"
"""What runs are logged by; W&B's own counter goes on when a resumed run repeats steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceTarget:
    """Where a workspace is saved."""

    entity: str | None
    """None: the account's default."""
    project: str
    name: str


def save_workspace(plan: WorkspacePlan, target: WorkspaceTarget) -> str:
    """Save it as a new view of the project; returns its address.

    Raises:
        ConfigError: no login, no library, or W&B refuses.
    """
    if not has_login():
        raise ConfigError(
            "no W&B login was found: run wandb login, or set WANDB_API_KEY; --dry-run shows the "
            "panels without"
        )
    try:
        workspace = build_workspace(plan, target)
        workspace.save()
    except ConfigError:
        raise
    except Exception as err:  # the boundary to W&B, whose errors here have no common base
        raise ConfigError(
            f"W&B can't save a workspace in project {target.project!r}: "
            f"{type(err).__name__}: {err}. Does the project exist, and may you write to it?"
        ) from err
    return str(workspace.url)


def build_workspace(plan: WorkspacePlan, target: WorkspaceTarget) -> workspaces.Workspace:
    """The workspace, not saved. Raises ConfigError if the library is not there."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as err:
        raise ConfigError("this needs W&B's library: pip install wandb-workspaces") from err
    sections = [
        workspaces.Section(
            name=section.name,
            panels=[_line_plot(panel) for panel in section.panels],
            is_open=index == 0,
        )
        for index, section in enumerate(plan.sections)
    ]
    tables = [reports.WeavePanelSummaryTable(table_name=name) for name in plan.tables]
    return workspaces.Workspace(
        entity=target.entity or _default_entity(),
        project=target.project,
        name=target.name,
        sections=[*sections, workspaces.Section(name="tables", panels=[*tables])],
        settings=workspaces.WorkspaceSettings(x_axis=_STEP),
    )


def _line_plot(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as reports

    return reports.LinePlot(
        title=panel.title,
        x=_STEP,
        y=[*panel.metrics],
        title_y=panel.unit,
        plot_type="stacked-area" if panel.kind == "stacked" else "line",
    )


def _default_entity() -> str:
    import wandb

    entity = wandb.Api().default_entity
    if entity is None:
        raise ConfigError("the W&B account has no default entity: give --entity")
    return entity
