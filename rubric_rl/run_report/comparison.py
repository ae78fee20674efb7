"""Several runs beside each other: their figures, and the settings that they differ in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rubric_rl.run_report.bottleneck import measured_s
from rubric_rl.run_report.chart import swatch
from rubric_rl.run_report.headline import duration
from rubric_rl.run_report.markup import EMPTY, Cell, Html, cell, join, section, table, text
from rubric_rl.run_report.records import Point, Run
from rubric_rl.run_report.scale import number
from rubric_rl.run_report.settings import shown

# They say where a run is, not what it is.
_OWN = frozenset({"run.dir", "run.name", "run.resume"})
_ABSENT = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLastPeak:
    """A curve in three figures."""

    first: Point
    last: Point
    peak: Point
    """The highest; of equal ones the earliest."""


def first_last_peak(points: Sequence[Point]) -> FirstLastPeak | None:
    """None of an empty curve."""
    if not points:
        return None
    peak = max(points, key=lambda point: (point.value, -point.step))
    return FirstLastPeak(first=points[0], last=points[-1], peak=peak)


_CURVES = (
    ("held-out reward", "eval/reward_mean"),
    ("held-out reward, first rubrics", "eval/anchor_reward_mean"),
    ("held-out gold", "eval/gold_mean"),
    ("training reward", "reward/mean"),
)
_LAST: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("steps", lambda run: str(run.num_steps)),
    ("refinements", lambda run: str(len(run.refined_at))),
    ("KL", lambda run: _last(run, "policy/kl_ref")),
    ("entropy", lambda run: _last(run, "policy/entropy")),
    ("tokens", lambda run: _last(run, "rollout/response_tokens_mean")),
    ("ties at the top", lambda run: _last(run, "reward/top_tie_frac")),
    ("saturated", lambda run: _last(run, "reward/saturated_frac")),
    ("unknown verdicts", lambda run: _last(run, "judge/unknown_frac")),
    ("USD", lambda run: _last(run, "judge/spent_usd")),
    ("time", lambda run: duration(measured_s(run.steps))),
)


def comparison_html(runs: Sequence[Run]) -> Html:
    """Empty for one run."""
    if len(runs) < 2:
        return EMPTY
    return section("Runs compared", _curves(runs), _ends(runs), _settings(runs), id_="compared")


def _curves(runs: Sequence[Run]) -> Html:
    rows = [
        [_named(position, run), name, *_three(curve)]
        for name, metric in _CURVES
        for position, run in enumerate(runs)
        if (curve := first_last_peak(run.points(metric)))
    ]
    return table(
        ("run", "curve", "first", "last", "change", "peak", "peak at step", "last under peak"),
        rows,
        caption="First, last and peak, with the half width of the 95 % interval where it is known",
        numbers=6,
    )


def _three(curve: FirstLastPeak) -> list[str]:
    return [
        _value(curve.first),
        _value(curve.last),
        f"{curve.last.value - curve.first.value:+.3f}",
        _value(curve.peak),
        str(curve.peak.step),
        f"{curve.peak.value - curve.last.value:.3f}",
    ]


def _value(point: Point) -> str:
    half = "" if point.half_width is None else f" +/- {point.half_width:.3f}"
    return f"{point.value:.3f}{half}"


def _ends(runs: Sequence[Run]) -> Html:
    rows = [
        [_named(position, run), *(words(run) for _, words in _LAST)]
        for position, run in enumerate(runs)
    ]
    head = ("run", *(name for name, _ in _LAST))
    return table(head, rows, caption="At the last step", numbers=len(_LAST))


def _last(run: Run, metric: str) -> str:
    value = run.last(metric)
    return _ABSENT if value is None else number(value)


def _named(position: int, run: Run) -> Cell:
    return cell(join([swatch(position, 0), text(f" {run.label}")]))


# ----------------------------------------------------------------------------
# Settings


def differing_settings(runs: Sequence[Run]) -> tuple[str, ...]:
    """Keys that not all runs have with the same value; where a run is kept aside."""
    keys = dict.fromkeys(key for run in runs for key in run.settings.values)
    return tuple(
        key for key in keys if key not in _OWN and len({_setting(run, key) for run in runs}) > 1
    )


def _setting(run: Run, key: str) -> str:
    if key not in run.settings.values:
        return _ABSENT
    return shown(run.settings.values[key])


def _settings(runs: Sequence[Run]) -> Html:
    rows = [[key, *(_setting(run, key) for run in runs)] for key in differing_settings(runs)]
    if not rows:
        return table(("setting",), [["all settings are the same"]], caption="Settings that differ")
    head = ("setting", *(run.label for run in runs))
    return table(head, rows, caption="Settings that differ")
