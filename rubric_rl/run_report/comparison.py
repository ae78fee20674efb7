"""Several runs beside each other: their figures, and the settings that they differ in."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.run_report.bottleneck import measured_s
from rubric_rl.run_report.chart import Line, swatch
from rubric_rl.run_report.gold_section import declines_table
from rubric_rl.run_report.headline import duration
from rubric_rl.run_report.markup import Cell, Html, join, section, table, text
from rubric_rl.run_report.records import Point, Run
from rubric_rl.run_report.scale import number

# They say where a run is, not what it is.
_OWN = frozenset({"run.dir", "run.name", "run.resume"})
_ABSENT = "-"

_CURVES = {
    "held-out reward": "eval/reward_mean",
    "held-out reward, first rubrics": "eval/anchor_reward_mean",
    "held-out gold": "eval/gold_mean",
    "training reward": "reward/mean",
}
_LAST = {
    "KL": "policy/kl_ref",
    "entropy": "policy/entropy",
    "tokens": "rollout/response_tokens_mean",
    "ties at the top": "reward/top_tie_frac",
    "saturated": "reward/saturated_frac",
    "unknown verdicts": "judge/unknown_frac",
    "USD": "judge/spent_usd",
}


def comparison_html(runs: Sequence[Run]) -> Html:
    """Tables with a row for each run, or a column in that of settings."""
    curves = [
        [_named(position, run), name, *first_last_peak(points)]
        for name, metric in _CURVES.items()
        for position, run in enumerate(runs)
        if (points := run.points(metric))
    ]
    head = ("run", "curve", "first", "last", "change", "peak", "at step", "last under peak")
    title = "First, last and peak, +/- half the 95 % interval where it is known"
    last = [[_named(position, run), *_at_last(run)] for position, run in enumerate(runs)]
    names = ("run", "steps", "refinements", *_LAST, "time")
    settings = [[key, *(_setting(run, key) for run in runs)] for key in differing_settings(runs)]
    return section(
        "Runs compared",
        table(title, head, curves, numbers=6),
        declines_table(runs),
        table("At the last step", names, last, numbers=len(names) - 1),
        table("Settings that differ", ("setting", *(run.label for run in runs)), settings),
        level=2,
    )


def first_last_peak(points: Sequence[Point]) -> list[str]:
    """First, last, change, peak, its step, and how far the last lies under it.

    The peak is the highest value, of equal ones the earliest; there is at least one point.
    """
    first, last = points[0], points[-1]
    peak = max(points, key=lambda point: (point.value, -point.step))
    return [
        _value(first),
        _value(last),
        f"{last.value - first.value:+.3f}",
        _value(peak),
        str(peak.step),
        f"{peak.value - last.value:.3f}",
    ]


def _value(point: Point) -> str:
    half = "" if point.half_width is None else f" +/- {point.half_width:.3f}"
    return f"{point.value:.3f}{half}"


def _at_last(run: Run) -> list[str]:
    curves = [run.points(metric) for metric in _LAST.values()]
    values = [number(points[-1].value) if points else _ABSENT for points in curves]
    counts = [str(run.steps[-1].step), str(len(run.refined_at))]
    return [*counts, *values, duration(measured_s(run.steps))]


def _named(position: int, run: Run) -> Cell:
    line = Line(label=run.label, points=(), colour=position)
    return Cell(join([swatch(line), text(f" {run.label}")]))


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Keys that not all runs have with the same value; where a run is kept aside."""
    keys = dict.fromkeys(key for run in runs for key in run.settings.values if key not in _OWN)
    return [key for key in keys if len({_setting(run, key) for run in runs}) > 1]


def _setting(run: Run, key: str) -> str:
    value = run.settings.values.get(key)
    return _ABSENT if value is None else value
