"""What `rubric-rl eval best-of-n` leaves: figures by n, and a table of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from rubric_rl.commands.judge_progress import dollars
from rubric_rl.commands.theory_inputs import in_words
from rubric_rl.evaluation.best_of_n import Rewarded
from rubric_rl.theory.answers import (
    MIN_ANSWERS,
    PromptAnswers,
    expected_best_of_n,
    measured_best_of_n,
)
from rubric_rl.theory.resampling import Interval, Resamples
from rubric_rl.theory.tilt import FloatArray, kl_of_best_of_n

FORMAT = "rubric_rl.best_of_n/1"

# Equal sums of decimal weights differ in their last bits, and are no better or worse.
_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FiguresOfN:
    """Expectations over all draws of n answers without replacement; means over prompts."""

    n: int
    kl: float
    """Nats from the policy that wrote the answers, log n - (n-1)/n, if no rewards tied."""
    num_prompts: int
    """Prompts with n scored answers."""
    reward: Interval
    gold: Interval | None
    """Of prompts with n answers that have both values; None where there are none."""
    win_rate: Interval | None
    """By gold against another answer to the prompt, equal ones as half; needs n + 1 of them."""
    num_gold_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfNFile:
    """What OUT.figures.json holds."""

    format: str
    n: int
    name: str
    seed: int
    judge_id: str
    gold: str | None
    """Where gold values are from; None: there are none."""
    num_prompts: int
    """With an answer in OUT."""
    left_out: Mapping[str, int]
    picked_reward: float
    """Mean reward of the answers in OUT: of one draw, where the table has the mean over all."""
    by_n: tuple[FiguresOfN, ...]
    cost_usd: float


def figures_by_n(prompts: Sequence[Sequence[Rewarded]], *, seed: int) -> tuple[FiguresOfN, ...]:
    """For n = 1, 2, 4, ... and the most that a prompt has; `seed` is of the resamples.

    Each prompt's scored answers count, for gold those that have a gold value too.
    """
    rewards = [_column(own, lambda one: one.reward) for own in prompts]
    both = [_with_gold(own) for own in prompts]
    most = max((len(values) for values in rewards), default=0)
    sizes = sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most} - {0})
    return tuple(_figures_of(n, rewards, both, seed) for n in sizes)


def _column(answers: Sequence[Rewarded], value: Callable[[Rewarded], float | None]) -> FloatArray:
    found = [value(one) for one in answers]
    return np.array([round(v, _DIGITS) for v in found if v is not None], dtype=np.float64)


def _with_gold(answers: Sequence[Rewarded]) -> tuple[FloatArray, FloatArray]:
    """[N] rewards and [N] gold values of the answers that have both."""
    both = [one for one in answers if one.reward is not None and one.gold is not None]
    return _column(both, lambda one: one.reward), _column(both, lambda one: one.gold)


def _figures_of(
    n: int,
    rewards: Sequence[FloatArray],
    both: Sequence[tuple[FloatArray, FloatArray]],
    seed: int,
) -> FiguresOfN:
    expected = [expected_best_of_n(values, values, n) for values in rewards if len(values) >= n]
    golds = [expected_best_of_n(proxy, gold, n) for proxy, gold in both if len(proxy) >= n]
    wins = [
        measured_best_of_n(PromptAnswers(prompt_id="", proxy=proxy, gold=gold), n)
        for proxy, gold in both
        if len(proxy) > max(n, MIN_ANSWERS - 1)
    ]
    reward = _mean(expected, seed)
    assert reward is not None, "n is at most what a prompt has"
    return FiguresOfN(
        n=n,
        kl=float(kl_of_best_of_n(n)),
        num_prompts=len(expected),
        reward=reward,
        gold=_mean(golds, seed),
        win_rate=_mean(wins, seed),
        num_gold_prompts=len(golds),
    )


def _mean(values: Sequence[float], seed: int) -> Interval | None:
    if not values:
        return None
    return Resamples(len(values), seed=seed).mean(np.array(values))


def print_best_of_n(result: BestOfNFile) -> None:
    """The table and what it is of, to stdout."""
    table = Table("n", "KL", "prompts", "reward", "gold", "win rate by gold")
    for one in result.by_n:
        gold = ["-" if figure is None else str(figure) for figure in (one.gold, one.win_rate)]
        table.add_row(str(one.n), f"{one.kl:.3f}", str(one.num_prompts), str(one.reward), *gold)
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    spent = f"; {dollars(result.cost_usd)}" if result.cost_usd else ""
    lines = [
        "expected over all draws without replacement; 95 % intervals by prompt",
        f"reward: {result.judge_id}; gold: {result.gold or 'none given'}{spent}",
        f"{result.name}: {result.num_prompts} prompts, mean reward {result.picked_reward:.4f}; "
        f"left out: {in_words(result.left_out)}",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)
