"""Line charts as inline SVG: curves, intervals, a readout at each step, no script.

Colours are the page's variables, so that a chart is right in light, dark and print. A
curve differs from the others by its dashes as well as by its colour. Every chart has its
figures in a table below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from rubric_rl.run_report.markup import EMPTY, Html, element, folded, join, table, text
from rubric_rl.run_report.records import Point
from rubric_rl.run_report.scale import Scale, number, step_scale, tick_words, value_scale

T = TypeVar("T")

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 48, WIDTH - 12, 10, HEIGHT - 34
_CHARACTER_PX, _LINE_PX = 6.2, 14
# Beyond so many steps a curve is drawn through every second, third, ...
_MAX_POINTS, _MAX_READOUTS, _MAX_DOTS, _MAX_ROWS = 400, 60, 30, 60
NUM_COLOURS = 8
_DASHES = ("none", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve; colours and dashes are counted from 0."""

    label: str
    points: tuple[Point, ...]
    """At least one."""
    colour: int = 0
    dash: int = 0

    @property
    def style(self) -> str:
        return f"c{self.colour % NUM_COLOURS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves on one pair of axes."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    """At least one."""
    zero: bool = False
    """The axis begins at 0."""
    note: str = ""
    marks: tuple[int, ...] = ()
    """Steps with a vertical line: rubrics were refined."""


def chart_html(chart: Chart) -> Html:
    """The chart as a figure, with its figures in a table."""
    items = [element("li", swatch(line), text(line.label)) for line in chart.lines]
    return element(
        "figure",
        caption(chart.title, chart.unit, chart.note),
        element("ul", *items, class_="legend") if len(items) > 1 else EMPTY,
        _svg(chart, [_thinned(line) for line in chart.lines]),
        folded("Figures", _figures(chart)),
    )


def caption(title: str, unit: str, words: str) -> Html:
    return element("figcaption", element("strong", text(title)), text(f" ({unit}) {words}"))


def swatch(line: Line) -> Html:
    """A bit of a curve, for a legend."""
    stroke = _rule(0, 22, 5, 5, f"curve {line.style}", _DASHES[line.dash % len(_DASHES)])
    return element("svg", stroke, width=22, height=10, viewBox="0 0 22 10", aria_hidden="true")


def _thinned(line: Line) -> Line:
    return replace(line, points=tuple(_spread(line.points, _MAX_POINTS)))


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """At most about `limit` at even distances, and the last."""
    stride = -(-len(items) // limit)
    return [*items[:-1:stride], items[-1]]


# ----------------------------------------------------------------------------
# The drawing


def _svg(chart: Chart, lines: Sequence[Line]) -> Html:
    points = [point for line in lines for point in line.points]
    steps = [point.step for point in points]
    ends = [p.value + sign * (p.half_width or 0.0) for p in points for sign in (-1, 1)]
    x = step_scale(min(steps), max(steps), start_px=LEFT, end_px=RIGHT)
    y = value_scale(ends, start_px=BOTTOM, end_px=TOP, zero=chart.zero)
    marks = [x.px(step) for step in chart.marks if x.low <= step <= x.high]
    return drawing(
        _spoken(chart.title, lines),
        axes(x, y),
        *(_rule(at, at, TOP, BOTTOM, "refined") for at in marks),
        *(_band(x, y, line) for line in lines),
        *(_curve(x, y, line) for line in lines),
        *_readouts(x, lines),
    )


def drawing(spoken: str, *parts: Html) -> Html:
    """The SVG; `spoken` is read out in its place."""
    box = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", *parts, viewBox=box, role="img", aria_label=spoken)


def _spoken(title: str, lines: Sequence[Line]) -> str:
    ends = [(line.label, line.points[0], line.points[-1]) for line in lines]
    words = [
        f"{label} {number(first.value)} at step {first.step}, {number(last.value)} at {last.step}"
        for label, first, last in ends
    ]
    return f"{title}: {'; '.join(words)}"


def axes(x: Scale, y: Scale) -> Html:
    """Grid, ticks and the axis of steps."""
    parts: list[Html] = []
    for tick in y.ticks:
        at, words = y.px(tick), text(tick_words(tick, y.ticks))
        parts.append(_rule(LEFT, RIGHT, at, at, "grid"))
        parts.append(element("text", words, x=LEFT - 6, y=at + 4, class_="tick end"))
    for place, words in [*((x.px(t), f"{t:.0f}") for t in x.ticks), ((LEFT + RIGHT) / 2, "step")]:
        down = HEIGHT - 4 if words == "step" else BOTTOM + 15
        parts.append(element("text", text(words), x=place, y=down, class_="tick middle"))
    return element("g", *parts, aria_hidden="true")


def _rule(x1: float, x2: float, y1: float, y2: float, class_: str, dash: str = "none") -> Html:
    attributes = {} if dash == "none" else {"stroke_dasharray": dash}
    return element("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=class_, **attributes)


def _band(x: Scale, y: Scale, line: Line) -> Html:
    known = [(x.px(p.step), p.value, h) for p in line.points if (h := p.half_width) is not None]
    if len(known) == 1:
        ((at, value, half),) = known
        return _rule(at, at, y.px(value - half), y.px(value + half), f"whisker {line.style}")
    upper = [(at, y.px(value + half)) for at, value, half in known]
    lower = [(at, y.px(value - half)) for at, value, half in reversed(known)]
    path = _path([*upper, *lower])
    return element("polygon", points=path, class_=f"band {line.style}") if known else EMPTY


def _curve(x: Scale, y: Scale, line: Line) -> Html:
    places = [(x.px(p.step), y.px(p.value)) for p in line.points]
    dash = _DASHES[line.dash % len(_DASHES)]
    curve = element(
        "polyline", points=_path(places), class_=f"curve {line.style}", stroke_dasharray=dash
    )
    dots = (element("circle", cx=a, cy=b, r=2.5, class_=f"dot {line.style}") for a, b in places)
    return join([curve, *(dots if len(places) <= _MAX_DOTS else ())])


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in places)


# ----------------------------------------------------------------------------
# What is shown while the pointer is over a step, by the style sheet alone


def _readouts(x: Scale, lines: Sequence[Line]) -> list[Html]:
    by_step = [{p.step: p for p in line.points} for line in lines]
    kept = _spread(sorted({step for points in by_step for step in points}), _MAX_READOUTS)
    middles = [(x.px(a) + x.px(b)) / 2 for a, b in pairwise(kept)]
    edges = [x.start_px, *middles, x.end_px]
    is_alone = len(lines) == 1
    shown: list[Html] = []
    for i, step in enumerate(kept):
        words = [f"step {step}"]
        for line, points in zip(lines, by_step, strict=True):
            if step in points:
                value = _with_interval(points[step])
                words.append(value if is_alone else f"{line.label}: {value}")
        shown.append(readout(x.px(step), edges[i], edges[i + 1], words))
    return shown


def readout(at: float, from_px: float, to_px: float, words: Sequence[str]) -> Html:
    """A column of the drawing, and what is shown when the pointer is over it."""
    words = [_shortened(line) for line in words]
    width = max(len(line) for line in words) * _CHARACTER_PX + 12
    fits = at + 8 + width <= RIGHT
    left = at + 8 if fits else max(0.0, at - 8 - width)
    box = {"x": left, "y": TOP + 2, "width": width, "height": len(words) * _LINE_PX + 6}
    lines = (
        element("text", text(line), x=left + 6, y=TOP + 15 + i * _LINE_PX)
        for i, line in enumerate(words)
    )
    tip = element("g", _rule(at, at, TOP, BOTTOM, "at"), element("rect", **box), *lines)
    band = {"x": from_px, "y": TOP, "width": max(to_px - from_px, 1.0), "height": BOTTOM - TOP}
    return element("g", element("rect", **band), tip, class_="readout")


def _shortened(words: str) -> str:
    """Its begin and its end, where the figures are, so that it fits into the drawing."""
    return words if len(words) <= 52 else f"{words[:24]}...{words[-25:]}"


def _with_interval(point: Point) -> str:
    half = "" if point.half_width is None else f" +/- {point.half_width:.2g}"
    return f"{number(point.value)}{half}"


def _figures(chart: Chart) -> Html:
    by_step = [{point.step: point for point in line.points} for line in chart.lines]
    kept = _spread(sorted({step for points in by_step for step in points}), _MAX_ROWS)
    rows = (
        [str(step), *(_with_interval(own[step]) if step in own else "" for own in by_step)]
        for step in kept
    )
    head = ["step", *(line.label for line in chart.lines)]
    return table(chart.title, head, rows, numbers=len(chart.lines))
