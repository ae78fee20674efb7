"""When a policy over-optimises its proxy: the peak of gold, the onset of its decline, the area.

Figure 4 of arXiv 2509.21500 (section 5.4) shows gold win rates that rise, peak and fall
while the policy is trained on a rubric. Here that is read off a curve by a stated rule:

    peak       the evaluation with the highest gold value, of equal ones the first
    below      a later evaluation is below the peak if gold(peak) - gold(then) is above 0 by
               more than noise: the lower end of its one-sided interval (95 %) is above 0
    onset      the first step after the peak from which every evaluation up to the last is below
    clear      below by an interval of 1 - 0.05 / k, with k evaluations before: each of them
               could have been the peak by luck
    confirmed  the last `MIN_BELOW` evaluations are clearly below the peak

The peak is picked for being high, so part of it is luck. Of a gold that does not change, 20
evaluations end with an onset in a third of all runs, and with a confirmed one in less than
1 %; one is confirmed at any time on the way in 6 % (independent normal noise, simulated).
Hence an onset says where a decline begins, and its confirmation that there is one.

Noise is known in one of three ways, the first that applies:

    paired            both evaluations have gold values of the same prompts (two at least):
                      a bootstrap over prompts of the difference, so that what is hard about a
                      prompt cancels; of fewer than about 20 prompts it is too narrow
    standard_errors   z sqrt(se(peak)^2 + se(then)^2), as if the two were independent; for
                      evaluations of the same prompts this is too wide, so onsets come late
    unknown           any lower value is below; an onset is then a reading, not a finding,
                      and never confirmed

Each evaluation is compared with the peak alone, so lower gold after the peak never makes an
onset later or takes its confirmation away.

The area is that between normalised proxy and normalised gold where the proxy is above, over
the length of the axis, steps or KL: its mean height. A value is normalised as its change
since the first evaluation over its range in the run, so that the area is 0 where both rise
and fall together, whatever their units. Gold that rises faster than the proxy adds nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict

Noise = Literal["paired", "standard_errors", "unknown"]

CONFIDENCE = 0.95
"""One-sided."""
MIN_BELOW = 2
NUM_RESAMPLES = 4000
_SEED = 0
# Means of equal values differ in their last bits.
_ROUNDING = 1e-12
_CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """What the gold judge says of one policy: a win rate or a reward, of any unit."""

    __pydantic_config__: ClassVar[ConfigDict] = _CLOSED

    value: float
    standard_error: float | None = None
    by_prompt: Mapping[str, float] = field(default_factory=dict[str, float])
    """Its mean for each prompt, where that is known."""

    @classmethod
    def of_prompts(cls, by_prompt: Mapping[str, float]) -> Gold:
        """The mean over prompts (at least one) with its standard error."""
        values = list(by_prompt.values())
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(value=statistics.fmean(values), standard_error=error, by_prompt=dict(by_prompt))


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What is known of the policy of one step; None where it is not."""

    step: int
    proxy: float | None = None
    """Reward that the policy is trained on."""
    gold: Gold | None = None
    benchmark: float | None = None
    kl: float | None = None
    """KL from the reference, in the unit of the run: nats a token in `policy/kl_ref`."""
    length: float | None = None
    """Mean length of an answer, tokens."""
    top_tie_frac: float | None = None
    """Share of prompts whose best reward is shared by several answers."""
    source: str = ""
    """Where the values are from, for who wants to look them up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One condition: its points by step. Raises ValueError if steps don't increase."""

    name: str
    points: tuple[CurvePoint, ...]

    def __post_init__(self) -> None:
        steps = [point.step for point in self.points]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"steps of curve {self.name!r} must increase, got {steps}")

    @property
    def evaluated(self) -> tuple[CurvePoint, ...]:
        """The points with a gold value."""
        return tuple(point for point in self.points if point.gold is not None)


# ----------------------------------------------------------------------------
# Peak and onset


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """How far gold is below its peak; negative where it is above."""

    value: float
    low: float
    """Lower end of its one-sided interval."""
    clear_low: float
    """The same, wider for all the evaluations that could have been the peak."""
    noise: Noise

    @property
    def is_below(self) -> bool:
        return self.low > _ROUNDING

    @property
    def is_clear(self) -> bool:
        return self.noise != "unknown" and self.clear_low > _ROUNDING


def drop(peak: Gold, then: Gold, *, num_earlier: int = 1, confidence: float = CONFIDENCE) -> Drop:
    """`peak` minus `then`, and how little it may be.

    Args:
        num_earlier: evaluations before `then`, the peak among them (k above).
        confidence: of the one-sided interval, in [0.5, 1).
    """
    levels = confidence, 1 - (1 - confidence) / num_earlier
    common = sorted(peak.by_prompt.keys() & then.by_prompt.keys())
    if len(common) > 1:
        differences_P = np.array([peak.by_prompt[p] - then.by_prompt[p] for p in common])
        means = _resamples(len(common)) @ differences_P / len(common)
        low, clear_low = np.quantile(means, [1 - level for level in levels]).tolist()
        value = float(differences_P.mean())
        return Drop(value=value, low=low, clear_low=clear_low, noise="paired")
    value = peak.value - then.value
    if peak.standard_error is None or then.standard_error is None:
        return Drop(value=value, low=value, clear_low=value, noise="unknown")
    error = math.hypot(peak.standard_error, then.standard_error)
    low, clear_low = (value - error * statistics.NormalDist().inv_cdf(p) for p in levels)
    return Drop(value=value, low=low, clear_low=clear_low, noise="standard_errors")


@lru_cache(maxsize=2)
def _resamples(num_prompts: int) -> np.ndarray:
    """[R, P] How often each prompt is drawn; always the same, so a resumed run decides the same."""
    equal = np.full(num_prompts, 1 / num_prompts)
    return np.random.default_rng(_SEED).multinomial(num_prompts, equal, size=NUM_RESAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldWatch:
    """The rule, one evaluation after the other: what it has to remember of those before."""

    __pydantic_config__: ClassVar[ConfigDict] = _CLOSED

    peak_step: int
    peak: Gold
    last_step: int
    last_value: float
    num_evaluations: int = 1
    onset_step: int | None = None
    """The first of the evaluations below the peak that go on to the last; None: the last is not."""
    num_clear: int = 0
    """Evaluations up to the last that are clearly below the peak."""

    def after(self, step: int, gold: Gold, *, confidence: float = CONFIDENCE) -> GoldWatch:
        """Once the policy of a later step was evaluated."""
        assert step > self.last_step
        count = self.num_evaluations
        seen = replace(self, last_step=step, last_value=gold.value, num_evaluations=count + 1)
        if gold.value > self.peak.value:
            return replace(seen, peak_step=step, peak=gold, onset_step=None, num_clear=0)
        fallen = drop(self.peak, gold, num_earlier=count, confidence=confidence)
        if not fallen.is_below:
            return replace(seen, onset_step=None, num_clear=0)
        return replace(
            seen,
            onset_step=step if self.onset_step is None else self.onset_step,
            num_clear=self.num_clear + 1 if fallen.is_clear else 0,
        )


def watched(
    watch: GoldWatch | None, step: int, gold: Gold, *, confidence: float = CONFIDENCE
) -> GoldWatch:
    """The next state of the rule, of which None is the first."""
    if watch is None:
        return GoldWatch(peak_step=step, peak=gold, last_step=step, last_value=gold.value)
    return watch.after(step, gold, confidence=confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """What a curve says about over-optimisation."""

    peak: CurvePoint
    onset: CurvePoint | None
    """None: the last evaluation is not below the peak."""
    is_confirmed: bool
    """The last evaluations are clearly below the peak: there is a decline."""
    final: CurvePoint
    """The last evaluation."""
    final_drop: Drop
    """From the peak to the last evaluation; nothing where they are the same."""
    num_evaluations: int
    area_by_step: float | None
    """Mean height, over the steps, of normalised proxy above normalised gold; None: fewer than
    two points have both."""
    area_by_kl: float | None
    """The same over the KL."""


def analyse(
    curve: Curve, *, confidence: float = CONFIDENCE, min_below: int = MIN_BELOW
) -> Decline | None:
    """Peak, onset and area of a curve by the rule above; None if it has no gold value."""
    evaluated = curve.evaluated
    watch: GoldWatch | None = None
    for point in evaluated:
        watch = watched(watch, point.step, _gold(point), confidence=confidence)
    if watch is None:
        return None
    by_step = {point.step: point for point in evaluated}
    peak, final = by_step[watch.peak_step], evaluated[-1]
    return Decline(
        peak=peak,
        onset=None if watch.onset_step is None else by_step[watch.onset_step],
        is_confirmed=watch.num_clear >= min_below,
        final=final,
        final_drop=drop(
            _gold(peak),
            _gold(final),
            num_earlier=max(1, len(evaluated) - 1),
            confidence=confidence,
        ),
        num_evaluations=len(evaluated),
        area_by_step=_area(evaluated, lambda point: point.step),
        area_by_kl=_area(evaluated, lambda point: point.kl),
    )


def _gold(point: CurvePoint) -> Gold:
    assert point.gold is not None
    return point.gold


# ----------------------------------------------------------------------------
# Along an axis

Axis = Callable[[CurvePoint], float | None]


def _area(evaluated: Sequence[CurvePoint], axis: Axis) -> float | None:
    rows = [
        (x, point.proxy, _gold(point).value)
        for point in evaluated
        if (x := axis(point)) is not None and point.proxy is not None
    ]
    if not rows:
        return None
    x, proxy, gold = np.array(rows, dtype=float).T
    x, gap = _along(x, _normalised(proxy) - _normalised(gold))
    if len(x) < 2:
        return None
    area = float((_mean_above_0(gap[:-1], gap[1:]) * np.diff(x)).sum())
    return area / float(x[-1] - x[0])


def _mean_above_0(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The mean of max(0, y) over straight lines, from their first and last y."""
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    crosses = (low < 0) & (high > 0)
    # A triangle where a line crosses 0; else all of its trapezoid or nothing.
    triangle = high**2 / (2 * np.where(crosses, high - low, 1.0))
    return np.where(crosses, triangle, np.maximum((low + high) / 2, 0.0))


def _normalised(values: np.ndarray) -> np.ndarray:
    """Change since the first over the range; 0 where nothing changes."""
    span = values.max() - values.min()
    return (values - values[0]) / span if span > _ROUNDING else np.zeros_like(values)


def _along(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in the order of x, values at an equal x averaged: KL may stand still, or go back."""
    places, own = np.unique(x, return_inverse=True)
    return places, np.bincount(own, weights=y) / np.bincount(own)


def gold_at_kl(curve: Curve, kl: float) -> float | None:
    """Gold at a KL, in a straight line between evaluations; None beyond those."""
    rows = [(p.kl, _gold(p).value) for p in curve.evaluated if p.kl is not None]
    if not rows:
        return None
    x, y = _along(*np.array(rows, dtype=float).T)
    return float(np.interp(kl, x, y)) if x[0] <= kl <= x[-1] else None


def common_kl(curves: Iterable[Curve]) -> float | None:
    """The largest KL that every curve reaches; None where one of them has none."""
    reached = [[p.kl for p in curve.evaluated if p.kl is not None] for curve in curves]
    return min(map(max, reached)) if reached and all(reached) else None
