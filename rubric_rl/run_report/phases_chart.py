"""Seconds of each phase, stacked, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.run_report.bottleneck import PHASES, seconds_by_phase
from rubric_rl.run_report.chart import BOTTOM, LEFT, RIGHT, TOP, axes, caption, drawing, readout
from rubric_rl.run_report.markup import EMPTY, Html, element, text
from rubric_rl.run_report.records import StepMetrics
from rubric_rl.run_report.scale import Scale, number, step_scale, value_scale

# More steps than this are averaged into as many bars.
_MAX_BARS = 60
_FILLED = 0.8
_COLOURS = {metric: f"bar p{i}" for i, metric in enumerate(PHASES)}


def phases_html(steps: Sequence[StepMetrics]) -> Html:
    """The figure; empty if no step says what it took."""
    timed = [(line.step, own) for line in steps if (own := seconds_by_phase(line))]
    if not timed:
        return EMPTY
    size = -(-len(timed) // _MAX_BARS)
    bars = [_mean(timed[i : i + size]) for i in range(0, len(timed), size)]
    words = "" if size == 1 else f"Each bar is the mean of {size} steps."
    phases = [metric for metric in PHASES if any(metric in own for _, own in bars)]
    legend = (element("li", _swatch(metric), text(PHASES[metric])) for metric in phases)
    return element(
        "figure",
        caption("Time by phase", "s, stacked", words),
        element("ul", *legend, class_="legend"),
        _svg(bars, size),
    )


_Bar = tuple[int, dict[str, float]]
"""A step, and seconds by phase in the order of PHASES."""


def _mean(chunk: Sequence[_Bar]) -> _Bar:
    """Of some steps under the first of them; a phase that a step doesn't have is 0 there."""
    sums = {metric: sum(own[metric] for _, own in chunk if metric in own) for metric in PHASES}
    return chunk[0][0], {metric: s / len(chunk) for metric, s in sums.items() if s}


def _swatch(metric: str) -> Html:
    square = element("rect", width=10, height=10, class_=_COLOURS[metric])
    return element("svg", square, width=10, height=10, aria_hidden="true")


def _svg(bars: Sequence[_Bar], size: int) -> Html:
    whole = [sum(own.values()) for _, own in bars]
    y = value_scale(whole, start_px=BOTTOM, end_px=TOP, zero=True)
    first, last = bars[0][0], bars[-1][0]
    half = (RIGHT - LEFT) / (last - first + size) / 2 * size
    x = step_scale(first, last, start_px=LEFT + half, end_px=RIGHT - half)
    places = [x.px(step) for step, _ in bars]
    return drawing(
        "Seconds by phase, stacked; the table has the medians",
        axes(x, y),
        *(_bar(y, at, half, own) for at, (_, own) in zip(places, bars, strict=True)),
        *(
            readout(at, at - half, at + half, _words(step, own))
            for at, (step, own) in zip(places, bars, strict=True)
        ),
    )


def _bar(y: Scale, at: float, half: float, own: dict[str, float]) -> Html:
    parts: list[Html] = []
    bottom = 0.0
    for metric, seconds in own.items():
        top = bottom + seconds
        box = {"x": at - half * _FILLED, "width": 2 * half * _FILLED}
        box |= {"y": y.px(top), "height": y.px(bottom) - y.px(top)}
        parts.append(element("rect", **box, class_=_COLOURS[metric]))
        bottom = top
    return element("g", *parts)


def _words(step: int, own: dict[str, float]) -> list[str]:
    total = f"step {step}: {number(sum(own.values()))} s"
    return [total, *(f"{PHASES[metric]}: {number(s)} s" for metric, s in own.items())]
