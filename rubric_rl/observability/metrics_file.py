"""Reading `metrics.jsonl` of a run folder, whether its run has ended, goes on or was killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from rubric_rl.errors import DataError

METRICS_FILE = "metrics.jsonl"
_LINE: TypeAdapter[dict[str, FiniteFloat]] = TypeAdapter(dict[str, FiniteFloat])


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsLine:
    """What was logged of one step."""

    step: int
    line: int
    """Its line in the file, from 1."""
    metrics: Mapping[str, float]
    """By the names in `observability.metrics`, and `time`."""


def read_metrics(run_dir: Path) -> list[MetricsLine]:
    """All steps of a run in order; a last line that is cut is left out.

    Raises:
        DataError: the folder is not a run's, or a line is not a step's metrics.
    """
    path = run_dir / METRICS_FILE
    if not path.is_file():
        what = f"has no {METRICS_FILE}" if run_dir.is_dir() else "does not exist"
        raise DataError(f"{str(run_dir)!r} is not a run folder, it {what}: give what run.dir was")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as err:
        raise DataError(f"{path} is not UTF-8 at byte {err.start}") from err
    # What follows the last line end was half written: empty unless the run was killed.
    lines = text.split("\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def _parsed(path: Path, number: int, line: str) -> MetricsLine:
    try:
        metrics = _LINE.validate_json(line)
        step = metrics.pop("step")
    except (ValidationError, KeyError) as err:
        raise DataError(f"{path}, line {number} is not a step's metrics: {line[:60]!r}") from err
    return MetricsLine(step=int(step), line=number, metrics=metrics)
