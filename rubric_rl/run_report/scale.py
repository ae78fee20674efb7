"""Axes: round numbers that cover the data, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data to pixels, with its ticks."""

    low: float
    high: float
    start_px: float
    end_px: float
    ticks: tuple[float, ...]

    def px(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start_px + share * (self.end_px - self.start_px)


def value_scale(values: Sequence[float], *, start_px: float, end_px: float, zero: bool) -> Scale:
    """From a tick below the values to one above.

    Args:
        zero: the axis begins at 0, if no value is below it.
    """
    low, high = min(values), max(values)
    if zero and low >= 0:
        low = 0.0
    if high == low:  # a flat curve lies in the middle
        pad = abs(high) * 0.1 or 1.0
        low, high = (low if zero and low == 0 else low - pad), high + pad
    step = round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(step * i for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start_px, end_px, ticks)


def step_scale(first: int, last: int, *, start_px: float, end_px: float) -> Scale:
    """Of training steps: whole numbers, from the first to the last."""
    if first == last:
        return Scale(first - 1, last + 1, start_px, end_px, (first,))
    step = max(1, round(round_step((last - first) / 5)))
    ticks = tuple(float(i) for i in range(math.ceil(first / step) * step, last + 1, step))
    return Scale(first, last, start_px, end_px, ticks)


def round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, the first that is not below `rough` (above 0)."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * (1 - 1e-9))


def tick_words(value: float, ticks: Sequence[float]) -> str:
    """With the decimals that tell the ticks apart."""
    if max(abs(tick) for tick in ticks) >= 1e6:
        return f"{value:g}"
    step = ticks[1] - ticks[0]
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" if value else "0"


def number(value: float) -> str:
    """A figure for people: four digits that count, whole numbers whole."""
    if value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
