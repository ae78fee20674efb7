"""Line charts as inline SVG: curves, intervals, a readout at each step, no script.

Colours are the page's variables, so that a chart is right in light, dark and print. A
curve differs from the others by its dashes as well as by its colour. Every chart has its
figures in a table below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rubric_rl.run_report.markup import EMPTY, Html, element, folded, join, table, text
from rubric_rl.run_report.records import Point
from rubric_rl.run_report.scale import Scale, number, step_scale, tick_words, value_scale

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 34
_FONT_PX = 11
_CHARACTER_PX = 6.2
_LINE_PX = 14
# Beyond so many steps the curve is drawn through every second, third, ...
_MAX_POINTS = 400
_MAX_READOUTS = 60
_MAX_MARKERS = 30
_MAX_ROWS = 60
NUM_COLOURS = 8
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve."""

    label: str
    points: tuple[Point, ...]
    colour: int = 0
    """Counts the page's colours from 0."""
    dash: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves on one pair of axes."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    zero: bool = False
    """The axis begins at 0."""
    note: str = ""
    marks: tuple[int, ...] = ()
    """Steps with a vertical line: rubrics were refined."""


def chart_html(chart: Chart) -> Html:
    """The chart as a figure; empty if no curve has a point."""
    lines = [line for line in chart.lines if line.points]
    if not lines:
        return EMPTY
    caption = [element("strong", text(chart.title)), text(f" ({chart.unit})")]
    if chart.note:
        caption.append(element("span", text(f" {chart.note}"), class_="note"))
    return element(
        "figure",
        element("figcaption", *caption),
        _legend(lines) if len(lines) > 1 else EMPTY,
        _svg(chart, [_thinned(line) for line in lines]),
        folded("Figures", _figures(chart.title, lines)),
    )


def swatch(colour: int, dash: int) -> Html:
    """A bit of a curve, for a legend."""
    stroke = element(
        "line", x1=0, y1=5, x2=22, y2=5, class_=f"curve c{colour % NUM_COLOURS}", **_dash(dash)
    )
    return element("svg", stroke, width=22, height=10, viewBox="0 0 22 10", aria_hidden="true")


def _legend(lines: Sequence[Line]) -> Html:
    items = (element("li", swatch(line.colour, line.dash), text(line.label)) for line in lines)
    return element("ul", *items, class_="legend")


def _dash(dash: int) -> dict[str, str]:
    pattern = _DASHES[dash % len(_DASHES)]
    return {"stroke_dasharray": pattern} if pattern else {}


def _thinned(line: Line) -> Line:
    stride = -(-len(line.points) // _MAX_POINTS)
    if stride == 1:
        return line
    kept = line.points[:-1:stride] + line.points[-1:]
    return Line(label=line.label, points=kept, colour=line.colour, dash=line.dash)


# ----------------------------------------------------------------------------
# The drawing


def _svg(chart: Chart, lines: Sequence[Line]) -> Html:
    points = [point for line in lines for point in line.points]
    steps = [point.step for point in points]
    ends = [point.value + sign * (point.half_width or 0.0) for point in points for sign in (-1, 1)]
    x = step_scale(min(steps), max(steps), start_px=LEFT, end_px=WIDTH - RIGHT)
    y = value_scale(ends, start_px=HEIGHT - BOTTOM, end_px=TOP, zero=chart.zero)
    return element(
        "svg",
        axes(x, y),
        *(_mark(x, step) for step in chart.marks if x.low <= step <= x.high),
        *(_band(x, y, line) for line in lines),
        *(_curve(x, y, line) for line in lines),
        *_readouts(x, y, lines),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=_spoken(chart.title, lines),
    )


def _spoken(title: str, lines: Sequence[Line]) -> str:
    ends = [(line.label, line.points[0], line.points[-1]) for line in lines]
    words = [
        f"{label} {number(first.value)} at step {first.step}, {number(last.value)} at {last.step}"
        for label, first, last in ends
    ]
    return f"{title}: {'; '.join(words)}"


def axes(x: Scale, y: Scale, *, x_title: str = "step") -> Html:
    """Grid, ticks and the axis of steps."""
    parts: list[Html] = []
    for tick in y.ticks:
        at = y.px(tick)
        parts.append(element("line", x1=x.start_px, x2=x.end_px, y1=at, y2=at, class_="grid"))
        words = text(tick_words(tick, y.ticks))
        parts.append(element("text", words, x=LEFT - 6, y=at + 4, class_="tick end"))
    for tick in x.ticks:
        words = text(f"{tick:.0f}")
        parts.append(
            element("text", words, x=x.px(tick), y=HEIGHT - BOTTOM + 15, class_="tick middle")
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(element("text", text(x_title), x=middle, y=HEIGHT - 4, class_="tick middle"))
    return element("g", *parts, aria_hidden="true")


def _mark(x: Scale, step: int) -> Html:
    return element(
        "line", x1=x.px(step), x2=x.px(step), y1=TOP, y2=HEIGHT - BOTTOM, class_="refined"
    )


def _band(x: Scale, y: Scale, line: Line) -> Html:
    known = [(p, p.half_width) for p in line.points if p.half_width is not None]
    if not known:
        return EMPTY
    upper = [(p.step, p.value + half) for p, half in known]
    lower = [(p.step, p.value - half) for p, half in reversed(known)]
    colour = f"c{line.colour % NUM_COLOURS}"
    if len(known) == 1:
        ends = {"y1": y.px(upper[0][1]), "y2": y.px(lower[0][1])}
        at = x.px(known[0][0].step)
        return element("line", x1=at, x2=at, class_=f"whisker {colour}", **ends)
    return element("polygon", points=_path(x, y, upper + lower), class_=f"band {colour}")


def _curve(x: Scale, y: Scale, line: Line) -> Html:
    colour = f"c{line.colour % NUM_COLOURS}"
    path = _path(x, y, [(p.step, p.value) for p in line.points])
    parts = [element("polyline", points=path, class_=f"curve {colour}", **_dash(line.dash))]
    if len(line.points) <= _MAX_MARKERS:
        parts += [
            element("circle", cx=x.px(p.step), cy=y.px(p.value), r=2.5, class_=f"dot {colour}")
            for p in line.points
        ]
    return join(parts)


def _path(x: Scale, y: Scale, places: Sequence[tuple[int, float]]) -> str:
    return " ".join(f"{x.px(step):.1f},{y.px(value):.1f}" for step, value in places)


# ----------------------------------------------------------------------------
# What is shown while the pointer is over a step, by the style sheet alone


def _readouts(x: Scale, y: Scale, lines: Sequence[Line]) -> list[Html]:
    steps = sorted({point.step for line in lines for point in line.points})
    stride = -(-len(steps) // _MAX_READOUTS)
    kept = steps[::stride]
    edges = [x.start_px, *((x.px(a) + x.px(b)) / 2 for a, b in pairwise(kept))]
    edges.append(x.end_px)
    return [
        readout(
            x.px(step),
            (edges[i], edges[i + 1]),
            [f"step {step}", *_values_at(step, lines)],
        )
        for i, step in enumerate(kept)
    ]


def _values_at(step: int, lines: Sequence[Line]) -> list[str]:
    return [
        (f"{line.label}: " if len(lines) > 1 else "") + _with_interval(point)
        for line in lines
        for point in line.points
        if point.step == step
    ]


def _with_interval(point: Point) -> str:
    if point.half_width is None:
        return number(point.value)
    return f"{number(point.value)} +/- {number(point.half_width)}"


def readout(at_px: float, band_px: tuple[float, float], words: Sequence[str]) -> Html:
    """A column of the drawing, and the words that are shown when the pointer is over it."""
    width = max(len(line) for line in words) * _CHARACTER_PX + 12
    height = len(words) * _LINE_PX + 6
    is_right = at_px + 8 + width > WIDTH - RIGHT
    left = max(0.0, at_px - 8 - width) if is_right else at_px + 8
    shown = (
        element("text", text(line), x=left + 6, y=TOP + 15 + i * _LINE_PX)
        for i, line in enumerate(words)
    )
    box = element("rect", x=left, y=TOP + 2, width=width, height=height, rx=3)
    rule = element("line", x1=at_px, x2=at_px, y1=TOP, y2=HEIGHT - BOTTOM)
    band = element(
        "rect",
        x=band_px[0],
        y=TOP,
        width=max(band_px[1] - band_px[0], 1.0),
        height=HEIGHT - BOTTOM - TOP,
        class_="hit",
    )
    return element("g", band, element("g", rule, box, *shown, class_="tip"), class_="at")


def _figures(title: str, lines: Sequence[Line]) -> Html:
    by_step = [{point.step: point for point in line.points} for line in lines]
    steps = sorted({step for points in by_step for step in points})
    stride = -(-len(steps) // _MAX_ROWS)
    kept = steps[:-1:stride] + steps[-1:]
    rows = (
        [str(step), *(_with_interval(own[step]) if step in own else "" for own in by_step)]
        for step in kept
    )
    which = "" if stride == 1 else f", every {stride} steps"
    head = ["step", *(line.label for line in lines)]
    return table(head, rows, caption=f"{title}{which}", numbers=len(lines))
