"""What a run was made with and what it left: settings, versions, checkpoints."""

from __future__ import annotations

from rubric_rl.run_report.markup import EMPTY, Html, folded, paragraph, section, table
from rubric_rl.run_report.records import CheckpointLine, Run
from rubric_rl.run_report.settings import shown


def folder_html(run: Run, *, level: int) -> Html:
    settings = [(key, shown(value)) for key, value in run.settings.values.items()]
    versions = [(name, version or "not there") for name, version in run.environment.items()]
    return section(
        "Settings, versions, checkpoints",
        _checkpoints(run),
        folded(
            f"{len(settings)} settings (config.yaml)",
            table(("setting", "value"), settings, caption="The resolved configuration"),
        ),
        folded(
            "Versions (environment.json)",
            table(("name", "version"), versions, caption="Of the latest start"),
        )
        if versions
        else EMPTY,
        level=level,
    )


def _checkpoints(run: Run) -> Html:
    if not run.checkpoints:
        return paragraph("No checkpoint is there.", "note")
    rows = [(str(c.step), _evaluated(c), c.problem or "complete") for c in run.checkpoints]
    return table(("step", "held-out", "state"), rows, caption="Checkpoints")


def _evaluated(checkpoint: CheckpointLine) -> str:
    if checkpoint.metric is None or checkpoint.value is None:
        return "not evaluated"
    return f"{checkpoint.metric} {checkpoint.value:.4f}"
