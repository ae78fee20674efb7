"""Over-optimisation drawn as in Figure 4 of arXiv 2509.21500: gold by step and by KL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rubric_rl.evaluation.overoptimisation import Curve, CurvePoint, Decline
from rubric_rl.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    figure_style,
)

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_BAND_ALPHA = 0.13
_Z95 = 1.96

Value = Callable[[CurvePoint], float | None]


def draw_overopt(runs: Sequence[tuple[Curve, Decline]]) -> Figure:
    """Gold by step and by KL, proxy by step, ties at the top by step, for each run.

    Bands are 95 % intervals. A star is the peak; a ring and a vertical line are the onset of
    the decline, the line dotted where it is not confirmed.
    """
    with figure_style():
        figure = Figure(figsize=(8.6, 6.6), layout="constrained")
        (by_step, by_kl), (proxy, ties) = figure.subplots(2, 2)
        looks = zip(cycle(_COLOURS), cycle(_MARKS), strict=False)
        for (curve, decline), (colour, mark) in zip(runs, looks, strict=False):
            look = {"color": colour, "marker": mark, "markersize": 3.5, "linewidth": 1.4}
            _draw(by_step, curve, _step, _gold, look)
            _draw_band(by_step, curve, _step, colour)
            _draw_marks(by_step, decline, colour)
            _draw(by_kl, curve, _kl, _gold, look)
            _draw_peak(by_kl, decline.peak, _kl, colour)
            _draw(proxy, curve, _step, lambda point: point.proxy, look)
            _draw(ties, curve, _step, lambda point: point.top_tie_frac, look)
        _label(by_step, "(a) Gold by step", "Step", "Gold")
        _label(by_kl, "(b) Gold by KL", "KL from the reference (nats a token)", "Gold")
        _label(proxy, "(c) Proxy reward", "Step", "Held-out reward that is trained on")
        _label(ties, "(d) Ties at the top", "Step", "Prompts whose best reward is shared")
        handles, labels = by_step.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(runs)))
    return figure


def _step(point: CurvePoint) -> float | None:
    return point.step


def _kl(point: CurvePoint) -> float | None:
    return point.kl


def _gold(point: CurvePoint) -> float | None:
    return None if point.gold is None else point.gold.value


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", ha="center", color=GREY, transform=axes.transAxes)


def _draw(axes: Axes, curve: Curve, x: Value, y: Value, look: dict[str, object]) -> None:
    """A line through the points in the order of x, which is not always that of the steps."""
    found = sorted(
        (at, value)
        for p in curve.points
        if (at := x(p)) is not None and (value := y(p)) is not None
    )
    if found:
        axes.plot(*zip(*found, strict=True), label=curve.name, **look)  # pyright: ignore[reportArgumentType]


def _draw_band(axes: Axes, curve: Curve, x: Value, colour: str) -> None:
    found = [
        (at, p.gold.value, _Z95 * p.gold.standard_error)
        for p in curve.points
        if (at := x(p)) is not None and p.gold is not None and p.gold.standard_error is not None
    ]
    axes.fill_between(
        [at for at, _, _ in found],
        [value - half for _, value, half in found],
        [value + half for _, value, half in found],
        color=colour,
        alpha=_BAND_ALPHA,
        linewidth=0,
    )


def _draw_marks(axes: Axes, decline: Decline, colour: str) -> None:
    _draw_peak(axes, decline.peak, _step, colour)
    if decline.onset is not None:
        dashes = "dashed" if decline.is_confirmed else "dotted"
        at, value = decline.onset.step, _gold(decline.onset)
        axes.axvline(at, color=colour, linestyle=dashes, linewidth=1.0, zorder=1)
        if value is not None:
            axes.plot([at], [value], "o", color=colour, markersize=9, markerfacecolor="none")


def _draw_peak(axes: Axes, peak: CurvePoint, x: Value, colour: str) -> None:
    at, value = x(peak), _gold(peak)
    if at is not None and value is not None:
        axes.plot([at], [value], "*", color=colour, markersize=11, markeredgecolor="white")
