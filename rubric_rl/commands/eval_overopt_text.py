"""What `rubric-rl eval overopt` leaves: a table, its JSON, and the curves as CSV."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from rubric_rl.commands.overopt_inputs import RunCurve
from rubric_rl.evaluation.overoptimisation import CurvePoint, Decline, gold_at_kl

FORMAT = "rubric_rl.overopt/1"
_UNCONFIRMED = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overopt:
    """The analysis of several runs by one rule."""

    runs: tuple[tuple[RunCurve, Decline], ...]
    common_kl: float | None
    """The largest KL that all of them reach."""
    confidence: float
    min_below: int


def print_overopt(found: Overopt) -> None:
    """A table with a row for each run, and what its marks mean."""
    # Narrow enough for 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    for header in ("peak", "onset", "final", "drop", "at KL", "area", "by KL"):
        table.add_column(header, justify="right")
    for run, decline in found.runs:
        at_kl = None if found.common_kl is None else gold_at_kl(run.curve, found.common_kl)
        table.add_row(
            run.curve.name,
            _place(decline.peak),
            _onset(decline),
            _place(decline.final),
            f"{decline.final_drop.value:.3f}",
            _number(at_kl),
            _number(decline.area_by_step),
            _number(decline.area_by_kl),
        )
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    console.print("\n".join(_words(found)), soft_wrap=True, markup=False)


def _place(point: CurvePoint) -> str:
    assert point.gold is not None
    return f"{point.gold.value:.3f} ({point.step})"


def _onset(decline: Decline) -> str:
    if decline.onset is None:
        return "none"
    return f"{decline.onset.step}{'' if decline.is_confirmed else _UNCONFIRMED}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _words(found: Overopt) -> list[str]:
    lines = [
        "peak, final: gold (step); drop: from peak to final, paired where prompts are known; area: "
        "mean height of normalised proxy above normalised gold, over steps and over KL",
        f"onset: every evaluation from there on is below the peak ({found.confidence:.0%}, "
        f"one-sided); {_UNCONFIRMED}: the last {found.min_below} are not clearly below it",
    ]
    if found.common_kl is not None:
        lines.append(f"at KL: gold at {found.common_kl:.4g}, the largest KL that all runs reach")
    lines += [
        f"{run.curve.name}: {run.run}, gold is {run.gold_source}, "
        f"{decline.num_evaluations} evaluations, noise {decline.final_drop.noise}"
        for run, decline in found.runs
    ]
    return lines


# ----------------------------------------------------------------------------
# Files


def as_json(found: Overopt) -> str:
    """Every figure with the place that it is from."""
    runs = [_as_dict(run, decline, found.common_kl) for run, decline in found.runs]
    payload = {
        "format": FORMAT,
        "confidence": found.confidence,
        "min_below": found.min_below,
        "common_kl": found.common_kl,
        "runs": runs,
    }
    return json.dumps(payload, indent=2, allow_nan=False) + "\n"


def _as_dict(run: RunCurve, decline: Decline, common_kl: float | None) -> dict[str, Any]:
    drop = decline.final_drop
    return {
        "run": str(run.run),
        "name": run.curve.name,
        "gold_source": run.gold_source,
        "num_evaluations": decline.num_evaluations,
        "peak": _point(decline.peak),
        "onset": None if decline.onset is None else _point(decline.onset),
        "is_confirmed": decline.is_confirmed,
        "final": _point(decline.final),
        "final_drop": {"value": drop.value, "low": drop.low, "noise": drop.noise},
        "area_by_step": decline.area_by_step,
        "area_by_kl": decline.area_by_kl,
        "gold_at_common_kl": None if common_kl is None else gold_at_kl(run.curve, common_kl),
    }


def _point(point: CurvePoint) -> dict[str, Any]:
    gold = point.gold
    return {
        "step": point.step,
        "proxy": point.proxy,
        "gold": None if gold is None else gold.value,
        "gold_standard_error": None if gold is None else gold.standard_error,
        "benchmark": point.benchmark,
        "kl": point.kl,
        "length": point.length,
        "top_tie_frac": point.top_tie_frac,
        "source": point.source,
    }


def curves_csv(runs: Sequence[RunCurve]) -> str:
    """All points of all runs, a line each; what is not known is empty."""
    text = io.StringIO()
    rows = [{"run": run.curve.name, **_point(point)} for run in runs for point in run.curve.points]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
