"""Seconds of each phase, stacked, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.run_report.bottleneck import PHASES, seconds_by_phase
from rubric_rl.run_report.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    readout,
)
from rubric_rl.run_report.markup import EMPTY, Html, element, text
from rubric_rl.run_report.records import StepMetrics
from rubric_rl.run_report.scale import Scale, number, value_scale

# More steps than this are averaged into as many bars.
_MAX_BARS = 60
_GAP = 0.2


def phases_html(steps: Sequence[StepMetrics]) -> Html:
    """The figure; empty if no step says what it took."""
    timed = [(line.step, seconds_by_phase(line)) for line in steps]
    timed = [(step, own) for step, own in timed if sum(own.values()) > 0]
    if not timed:
        return EMPTY
    bars = _bars(timed)
    phases = [metric for metric in PHASES if any(metric in own for _, own in bars)]
    note = "" if len(bars) == len(timed) else f" Each bar is the mean of {_size(timed)} steps."
    caption = (element("strong", text("Time by phase")), text(f" (s, stacked).{note}"))
    return element(
        "figure",
        element("figcaption", *caption),
        _legend(phases),
        _svg(bars, phases),
    )


def _size(timed: Sequence[object]) -> int:
    return -(-len(timed) // _MAX_BARS)


def _bars(
    timed: Sequence[tuple[int, dict[str, float]]],
) -> list[tuple[str, dict[str, float]]]:
    """What each bar is of, and its seconds by phase; 0 where a step has no such phase."""
    size = _size(timed)
    chunks = [timed[i : i + size] for i in range(0, len(timed), size)]
    return [
        (
            f"{chunk[0][0]}" if len(chunk) == 1 else f"{chunk[0][0]} to {chunk[-1][0]}",
            {
                metric: sum(own[metric] for _, own in chunk if metric in own) / len(chunk)
                for metric in PHASES
                if any(metric in own for _, own in chunk)
            },
        )
        for chunk in chunks
    ]


def _colour(metric: str) -> str:
    return f"p{list(PHASES).index(metric)}"


def _legend(phases: Sequence[str]) -> Html:
    items = (
        element(
            "li",
            element(
                "svg",
                element("rect", width=10, height=10, class_=f"bar {_colour(metric)}"),
                width=10,
                height=10,
                aria_hidden="true",
            ),
            text(PHASES[metric]),
        )
        for metric in phases
    )
    return element("ul", *items, class_="legend")


def _svg(bars: Sequence[tuple[str, dict[str, float]]], phases: Sequence[str]) -> Html:
    y = value_scale(
        [sum(own.values()) for _, own in bars],
        start_px=HEIGHT - BOTTOM,
        end_px=TOP,
        zero=True,
    )
    # Bars have places, not steps: an evaluation before the first step is one of them.
    x = Scale(0, len(bars), LEFT, WIDTH - RIGHT, ())
    return element(
        "svg",
        axes(x, y),
        *(_bar(x, y, i, own, phases) for i, (_, own) in enumerate(bars)),
        *_place_words(x, [words for words, _ in bars]),
        *(_readout(x, i, words, own) for i, (words, own) in enumerate(bars)),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label="Time by phase; the table beside it has the medians",
    )


def _bar(x: Scale, y: Scale, place: int, own: dict[str, float], phases: Sequence[str]) -> Html:
    left, right = x.px(place + _GAP / 2), x.px(place + 1 - _GAP / 2)
    parts: list[Html] = []
    bottom = 0.0
    for metric in phases:
        if metric in own and own[metric] > 0:
            top = bottom + own[metric]
            height = y.px(bottom) - y.px(top)
            parts.append(
                element(
                    "rect",
                    x=left,
                    y=y.px(top),
                    width=right - left,
                    height=height,
                    class_=f"bar {_colour(metric)}",
                )
            )
            bottom = top
    return element("g", *parts)


def _place_words(x: Scale, words: Sequence[str]) -> list[Html]:
    stride = -(-len(words) // 8)
    return [
        element(
            "text",
            text(own.split(" ")[0]),
            x=x.px(i + 0.5),
            y=HEIGHT - BOTTOM + 15,
            class_="tick middle",
        )
        for i, own in enumerate(words)
        if i % stride == 0
    ]


def _readout(x: Scale, place: int, words: str, own: dict[str, float]) -> Html:
    lines = [f"{PHASES[metric]}: {number(s)} s" for metric, s in own.items() if s > 0]
    total = f"step {words}: {number(sum(own.values()))} s"
    return readout(x.px(place + 0.5), (x.px(place), x.px(place + 1)), [total, *lines])
