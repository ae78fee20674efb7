"""Axes and drawings, by figures that can be checked by hand."""

from __future__ import annotations

import re

import pytest

from rubric_rl.run_report.chart import Chart, Line, chart_html
from rubric_rl.run_report.phases_chart import phases_html
from rubric_rl.run_report.records import Point, StepMetrics
from rubric_rl.run_report.scale import number, round_step, step_scale, tick_words, value_scale


def line(*values: float, half: float | None = None, label: str = "curve") -> Line:
    points = (Point(step=i, value=v, half_width=half) for i, v in enumerate(values))
    return Line(label=label, points=tuple(points))


def drawn(*lines: Line, zero: bool = False) -> str:
    return chart_html(Chart(title="Title", unit="unit", lines=lines, zero=zero))


@pytest.mark.parametrize(
    ("values", "zero", "ticks"),
    [
        ([0.31, 0.52], False, [0.3, 0.4, 0.5, 0.6]),
        ([0.31, 0.52], True, [0.0, 0.2, 0.4, 0.6]),
        ([-1.0, 1.0], True, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        ([0.0, 0.0], True, [0.0, 0.5, 1.0]),
        ([64.0, 64.0], False, [55.0, 60.0, 65.0, 70.0, 75.0]),
    ],
)
def test_ticks_are_round_and_cover_the_values(
    values: list[float], zero: bool, ticks: list[float]
) -> None:
    scale = value_scale(values, start_px=100, end_px=0, zero=zero)
    assert scale.ticks == pytest.approx(ticks)
    assert scale.low <= min(values) and max(values) <= scale.high


def test_a_scale_maps_its_ends_to_its_pixels() -> None:
    scale = value_scale([0.0, 4.0], start_px=200, end_px=0, zero=True)
    assert (scale.px(0), scale.px(1), scale.px(4)) == (200, 150, 0)


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [(0, 12, (0, 5, 10)), (0, 4, (0, 1, 2, 3, 4)), (3, 3, (3,)), (1, 300, (100, 200, 300))],
)
def test_ticks_of_steps_are_whole(first: int, last: int, ticks: tuple[float, ...]) -> None:
    assert step_scale(first, last, start_px=0, end_px=100).ticks == ticks


@pytest.mark.parametrize(("rough", "step"), [(0.03, 0.05), (0.05, 0.05), (3.1, 5), (700, 1000)])
def test_steps_are_one_two_or_five(rough: float, step: float) -> None:
    assert round_step(rough) == pytest.approx(step)


@pytest.mark.parametrize(
    ("value", "ticks", "words"),
    [
        (0.3, [0.2, 0.3], "0.3"),
        (0.0, [0.0, 0.5], "0"),
        (20000.0, [0.0, 20000.0], "20000"),
        (2e6, [0.0, 2e6], "2e+06"),
        (0.0015, [0.001, 0.0015], "0.0015"),
        (10.0, [5.0, 10.0], "10"),
    ],
)
def test_ticks_have_the_decimals_that_tell_them_apart(
    value: float, ticks: list[float], words: str
) -> None:
    assert tick_words(value, ticks) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(3.0, "3"), (0.123456, "0.1235"), (12345.6, "12,346"), (1e7, "10,000,000"), (0, "0")],
)
def test_figures_have_four_digits_that_count(value: float, words: str) -> None:
    assert number(value) == words


def test_a_curve_runs_between_the_corners_of_its_axes() -> None:
    (path,) = re.findall(r'<polyline points="([^"]+)"', drawn(line(0.0, 1.0), zero=True))
    assert path == "48.0,186.0 388.0,10.0"


def test_an_interval_is_a_band_and_one_alone_a_whisker() -> None:
    html = drawn(line(0.4, 0.6, half=0.1))
    assert "<polygon" in html and "0.4 +/- 0.1" in html
    assert "whisker" in drawn(line(0.4, half=0.1))
    assert "<polygon" not in drawn(line(0.4, 0.6))


def test_the_axis_has_room_for_the_intervals() -> None:
    numbers = re.findall(r'points="([^"]+)" class="band', drawn(line(0.5, 0.5, half=0.5)))
    ys = [float(pair.split(",")[1]) for pair in numbers[0].split(" ")]
    assert min(ys) == 10 and max(ys) == 186


def test_a_legend_is_there_for_two_curves() -> None:
    assert "legend" not in drawn(line(1, 2))
    assert "legend" in drawn(line(1, 2), line(2, 3, label="other"))


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    html = drawn(line(*(float(i % 7) for i in range(5000)), 42.0))
    (path,) = re.findall(r'<polyline points="([^"]+)"', html)
    assert len(path.split(" ")) <= 402
    assert html.count('class="readout"') <= 60
    assert '<td class="n">42</td>' in html
    assert len(html) < 60_000


def test_phases_are_stacked_to_the_whole_step() -> None:
    values = {"time/step_s": 10.0, "time/rollout_s": 4.0, "time/learner_s": 5.0}
    html = phases_html([StepMetrics(step=1, time=0.0, values=values)])
    bars = re.findall(r'y="([\d.]+)" height="([\d.]+)" class="bar', html)
    # The axis is 176 pixels for 10 s, from 186 up: 4, 5 and 1 s.
    assert bars == [("115.6", "70.4"), ("27.6", "88"), ("10", "17.6")]
    assert phases_html([StepMetrics(step=1, time=0.0, values={})]) == ""


def test_many_steps_are_averaged_into_bars() -> None:
    steps = [StepMetrics(step=i, time=0.0, values={"time/step_s": 1.0}) for i in range(1, 301)]
    html = phases_html(steps)
    assert html.count("<g><rect") == 60
    assert "Each bar is the mean of 5 steps." in html
