"""Figures 4, 5 and 6 drawn: curves by training step, and shares as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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

_STYLES = (
    (GREY, "v"),
    (BLACK, "x"),
    (VERMILION, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (SKY, "D"),
    (BLUE, "P"),
    (PURPLE, "*"),
)
"""Of series in the order of their numbers: colour and mark."""
_PAPER_ALPHA = 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A curve; without `steps` a level that is the same at all steps."""

    label: str
    number: int
    """The same in all panels, ours and the paper's."""
    steps: tuple[int, ...]
    values: tuple[float, ...]
    """[K], or one value of a level"""
    intervals: tuple[tuple[float, float] | None, ...]
    """[K] low and high"""
    is_paper: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]


def draw_dynamics(panels: Sequence[Panel]) -> Figure:
    """Panels in rows of three; ours with marks and 95 % intervals, the paper's dotted."""
    with figure_style():
        num_rows = -(-len(panels) // 3)
        figure = Figure(figsize=(10.8, 3.1 * num_rows + 0.7), layout="constrained")
        grid = figure.subplots(num_rows, 3, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel)
        _legend(figure, [series for panel in panels for series in panel.series])
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel("Training step")
    if not panel.series:
        axes.text(0.5, 0.5, "no record", ha="center", color=GREY, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
    # The paper's lie under ours.
    for series in sorted(panel.series, key=lambda series: not series.is_paper):
        _draw_series(axes, series)
    if any(series.steps for series in panel.series):
        axes.set_xlim(left=0)


def _draw_series(axes: Axes, series: Series) -> None:
    colour, mark = _STYLES[series.number % len(_STYLES)]
    alpha = _PAPER_ALPHA if series.is_paper else 1.0
    if not series.steps:
        dashes = "dotted" if series.is_paper else "dashed"
        axes.axhline(series.values[0], color=colour, linestyle=dashes, linewidth=1.2, alpha=alpha)
        return
    if series.is_paper:
        axes.plot(
            series.steps,
            series.values,
            color=colour,
            linestyle="dotted",
            linewidth=1.3,
            alpha=alpha,
            marker=mark,
            markersize=2.5,
        )
        return
    axes.errorbar(
        series.steps,
        series.values,
        yerr=_errors(series),
        color=colour,
        marker=mark,
        markersize=4,
        linewidth=1.5,
        elinewidth=0.8,
        capsize=2,
    )


def _errors(series: Series) -> list[list[float]]:
    """[2, K] Distances down and up; 0 where there is no interval."""
    pairs = zip(series.values, series.intervals, strict=True)
    ends = [(v, (v, v) if i is None else i) for v, i in pairs]
    down = [max(0.0, v - low) for v, (low, _) in ends]
    up = [max(0.0, high - v) for v, (_, high) in ends]
    return [down, up]


def _legend(figure: Figure, series: Sequence[Series]) -> None:
    """One entry for each method, and what dotted means."""
    lines: dict[str, Line2D] = {}
    for one in sorted(series, key=lambda one: one.number):
        colour, mark = _STYLES[one.number % len(_STYLES)]
        dashes = ("--", "", "-")[min(len(one.steps), 2)]
        marker = mark if one.steps else ""
        lines[one.label] = Line2D([], [], color=colour, marker=marker, linestyle=dashes)
    if any(one.is_paper for one in series):
        lines["the paper's"] = Line2D([], [], color=GREY, linestyle="dotted")
    if lines:
        handles, labels = list(lines.values()), list(lines)
        figure.legend(handles, labels, loc="outside lower center", ncols=4)


def draw_shares(
    title: str,
    rows: Sequence[str],
    ours: Sequence[float | None],
    paper: Sequence[float | None],
) -> Figure:
    """Shares in percent as bars, a row each; None has no bar. [R] each"""
    with figure_style():
        figure = Figure(figsize=(7.4, 0.27 * len(rows) + 1.2), layout="constrained")
        axes = figure.subplots()
        has_paper = any(value is not None for value in paper)
        height = 0.38 if has_paper else 0.7
        shift = height / 2 if has_paper else 0.0
        _bars(axes, ours, -shift, height, BLUE, "", "ours")
        if has_paper:
            _bars(axes, paper, shift, height, ORANGE, "///", "the paper's")
            axes.legend(loc="lower right")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("share (%)")
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
        if not has_paper and all(value is None for value in ours):
            axes.text(0.5, 0.5, "no record", ha="center", color=GREY, transform=axes.transAxes)
    return figure


def _bars(
    axes: Axes,
    values: Sequence[float | None],
    shift: float,
    height: float,
    colour: str,
    hatch: str,
    label: str,
) -> None:
    shown = [(place + shift, value) for place, value in enumerate(values) if value is not None]
    if shown:
        places, lengths = zip(*shown, strict=True)
        axes.barh(
            places, lengths, height, color=colour, hatch=hatch, edgecolor="white", label=label
        )
