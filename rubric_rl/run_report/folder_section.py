"""What a run was made with and what it left: settings, versions, checkpoints."""

from __future__ import annotations

from rubric_rl.run_report.markup import Html, folded, note, section, table
from rubric_rl.run_report.records import Run


def folder_html(run: Run, *, level: int) -> Html:
    settings = table("config.yaml", ("setting", "value"), run.settings.values.items())
    versions = [(name, version or "not known") for name, version in run.environment.items()]
    checkpoints = note("There is no checkpoint.")
    if run.checkpoints:
        checkpoints = table("Checkpoints", ("step", "held-out", "state"), run.checkpoints)
    return section(
        "Settings, versions, checkpoints",
        checkpoints,
        folded(f"{len(run.settings.values)} settings", settings),
        folded("Versions", table("environment.json", ("name", "version"), versions)),
        level=level,
    )
