"""Do refined rubrics delay the decline of the gold reward? Curves, intervals and a verdict.

Everything is resampled over seeds and over prompts together (crossed), with the same draws for
all conditions, since these share seeds and prompts. The rules of the verdict are here and were
fixed before any run; nothing in them favours an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rubric_rl.lab.measures import MEASURES, RunCurves
from rubric_rl.lab.onset import Decline, FloatArray, decline
from rubric_rl.lab.plan import INITIAL

NUM_RESAMPLES = 1000
_TAIL = 2.5
MIN_SEEDS = 3
_SHARE_OF_DECLINES = 0.95
Verdict = Literal["delays", "does not delay", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionCurve:
    """A condition's mean over seeds and prompts at each evaluated step."""

    condition: str
    num_seeds: int
    num_prompts: int
    steps: tuple[int, ...]
    means: dict[str, FloatArray]
    """[K] for each of `MEASURES`, and `kl`."""
    low: dict[str, FloatArray]
    """[K] Lower ends of the 95 % intervals; those of `MEASURES`."""
    high: dict[str, FloatArray]
    decline: Decline
    start_scores: FloatArray
    """[2, N] Proxy and gold reward of the start policy's answers."""

    @property
    def peak_step(self) -> int:
        return self.steps[self.decline.peak]

    @property
    def onset_step(self) -> int | None:
        onset = self.decline.onset
        return None if onset is None else self.steps[onset]

    @property
    def loss(self) -> float:
        """Gold at the peak minus gold at the end."""
        gold = self.means["gold"]
        return float(gold[self.decline.peak] - gold[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A refined condition against the initial one."""

    condition: str
    delay_steps: Interval
    """Onset of decline minus that of `initial`; no decline counts as one evaluation after the
    last step, so a delay may be larger than told."""
    final_gold: Interval
    """Gold at the end minus that of `initial`."""
    loss: Interval
    """What gold lost from its peak to the end minus what `initial` lost."""
    verdict: Verdict


def condition_curves(runs: Sequence[RunCurves], *, seed: int = 0) -> list[ConditionCurve]:
    """Each condition of the runs, in their order. All need the same seeds, steps and prompts."""
    draws = _draws(runs, seed)
    return [_curve(condition, own, draws) for condition, own in _by_condition(runs).items()]


def differences(runs: Sequence[RunCurves], *, seed: int = 0) -> list[Difference]:
    """Each other condition against `initial`; none if that wasn't run."""
    by_condition = _by_condition(runs)
    if INITIAL not in by_condition:
        return []
    draws, steps = _draws(runs, seed), runs[0].steps
    first = _gold(by_condition[INITIAL])
    return [
        _difference(condition, _gold(own), first, steps, draws)
        for condition, own in by_condition.items()
        if condition != INITIAL
    ]


def verdict(*, initial_declines: bool, delay: Interval, num_seeds: int = MIN_SEEDS) -> Verdict:
    """What the figures say of a condition.

    `delays`: the whole interval of the delay is above 0. `does not delay`: all of it is at
    most 0. Otherwise, or if `initial` itself did not decline, or of fewer than `MIN_SEEDS`
    seeds, it can't be told.
    """
    if not initial_declines or num_seeds < MIN_SEEDS:
        return "cannot tell"
    if delay.low > 0:
        return "delays"
    return "does not delay" if delay.high <= 0 else "cannot tell"


# ----------------------------------------------------------------------------
# Resampling

_Draw = tuple[np.ndarray, np.ndarray]


def _draws(runs: Sequence[RunCurves], seed: int) -> list[_Draw]:
    """Indices of seeds and of prompts for each resample."""
    num_seeds = len({run.seed for run in runs})
    num_prompts = runs[0]["gold"].shape[1]
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(num_seeds, size=num_seeds), rng.integers(num_prompts, size=num_prompts))
        for _ in range(NUM_RESAMPLES)
    ]


def _by_condition(runs: Sequence[RunCurves]) -> dict[str, list[RunCurves]]:
    """In the order of seeds."""
    found: dict[str, list[RunCurves]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        found.setdefault(run.condition, []).append(run)
    order = list(dict.fromkeys(run.condition for run in runs))
    assert len({tuple(r.seed for r in own) for own in found.values()}) == 1
    return {condition: found[condition] for condition in order}


def _gold(own: Sequence[RunCurves]) -> FloatArray:
    return _stacked(own, "gold")


def _stacked(own: Sequence[RunCurves], name: str) -> FloatArray:
    """[S, K, P]"""
    return np.stack([run[name] for run in own])


def _units(values_SKP: FloatArray, draw: _Draw | None = None) -> FloatArray:
    """[K, U] Each prompt of each seed, of a resample if one is given."""
    if draw is not None:
        values_SKP = values_SKP[draw[0]][:, :, draw[1]]
    return values_SKP.transpose(1, 0, 2).reshape(values_SKP.shape[1], -1)


def _curve(condition: str, own: Sequence[RunCurves], draws: Sequence[_Draw]) -> ConditionCurve:
    means: dict[str, FloatArray] = {}
    low: dict[str, FloatArray] = {}
    high: dict[str, FloatArray] = {}
    for name in MEASURES:
        values = _stacked(own, name)
        resampled = np.array([_units(values, draw).mean(axis=1) for draw in draws])
        means[name] = _units(values).mean(axis=1)
        low[name], high[name] = np.percentile(resampled, [_TAIL, 100 - _TAIL], axis=0)
    means["kl"] = np.mean([run.kl_K for run in own], axis=0)
    return ConditionCurve(
        condition=condition,
        num_seeds=len(own),
        num_prompts=own[0]["gold"].shape[1],
        steps=own[0].steps,
        means=means,
        low=low,
        high=high,
        decline=decline(_units(_gold(own))),
        start_scores=np.concatenate([run.start_scores for run in own], axis=1),
    )


def _difference(
    condition: str,
    refined: FloatArray,
    initial: FloatArray,
    steps: tuple[int, ...],
    draws: Sequence[_Draw],
) -> Difference:
    def figures(draw: _Draw | None) -> tuple[float, float, float, float]:
        ours, theirs = _units(refined, draw), _units(initial, draw)
        onsets, losses, ends = zip(*(_summary(u, steps) for u in (ours, theirs)), strict=True)
        differences = onsets[0] - onsets[1], ends[0] - ends[1], losses[0] - losses[1]
        return *differences, float(onsets[1] <= steps[-1])

    values = figures(None)
    resampled = np.array([figures(draw) for draw in draws])
    delay, final, loss = (
        Interval(value, *(float(x) for x in np.percentile(column, [_TAIL, 100 - _TAIL])))
        for value, column in zip(values[:3], resampled.T, strict=False)
    )
    # The rule of the onset is a loose one: see there. One that luck makes is not in nearly all.
    initial_declines = bool(resampled[:, 3].mean() >= _SHARE_OF_DECLINES)
    return Difference(
        condition=condition,
        delay_steps=delay,
        final_gold=final,
        loss=loss,
        verdict=verdict(initial_declines=initial_declines, delay=delay, num_seeds=len(initial)),
    )


def _summary(units_KU: FloatArray, steps: tuple[int, ...]) -> tuple[float, float, float]:
    """Onset in steps (one evaluation after the last if there is none), loss, gold at the end."""
    found, means = decline(units_KU), units_KU.mean(axis=1)
    after = steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)
    onset = after if found.onset is None else steps[found.onset]
    return float(onset), float(means[found.peak] - means[-1]), float(means[-1])
