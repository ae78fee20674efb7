"""Answers with the two values that the estimator looks at, and what best of n came to.

The answers to a prompt stand for the base policy: each with equal weight, a proxy reward
(the rubric's) and a gold value (a judge's), of which only the order counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rubric_rl.theory.tilt import FloatArray

MIN_ANSWERS = 3
"""Fewer say nothing of the best of two against a third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptAnswers:
    """The answers to one prompt, in any order."""

    prompt_id: str
    proxy: FloatArray
    """[N] equal ones tie."""
    gold: FloatArray
    """[N]"""

    def __post_init__(self) -> None:
        if not len(self.proxy) == len(self.gold) >= MIN_ANSWERS:
            raise ValueError(
                f"got {len(self.proxy)} proxy and {len(self.gold)} gold values for "
                f"{self.prompt_id!r}, want as many of both and at least {MIN_ANSWERS}"
            )
        if not np.isfinite(self.proxy).all() or not np.isfinite(self.gold).all():
            raise ValueError(f"a value of {self.prompt_id!r} is not finite")

    @property
    def num(self) -> int:
        return len(self.proxy)


def measured_best_of_n(answers: PromptAnswers, n: int) -> float:
    """Win rate of the best of n answers by the proxy against another answer.

    Over all choices of n answers and one more, without replacement and exactly: the
    unbiased estimate of what best of n of this policy wins. Ties in the proxy are broken
    at random, ties in gold count half.

    Raises:
        ValueError: there are no n + 1 answers.
    """
    if not 1 <= n < answers.num:
        raise ValueError(f"got n = {n} with {answers.num} answers, want 1 to {answers.num - 1}")
    rates: list[float] = []
    for base in range(answers.num):
        others = np.arange(answers.num) != base
        gold = answers.gold[others]
        wins = (gold > answers.gold[base]) + 0.5 * (gold == answers.gold[base])
        rates.append(float(chance_of_being_best(answers.proxy[others], n) @ wins))
    return float(np.mean(rates))


def expected_best_of_n(proxy: FloatArray, values: FloatArray, n: int) -> float:
    """Mean of `values` [N] of the answer that is best by `proxy` [N] among n of the N.

    Over all choices of n answers without replacement, exactly; ties in the proxy are broken at
    random. Raises ValueError if there are no n answers.
    """
    if not 1 <= n <= len(proxy):
        raise ValueError(f"got n = {n} with {len(proxy)} answers, want 1 to {len(proxy)}")
    return float(chance_of_being_best(proxy, n) @ values)


def chance_of_being_best(proxy: FloatArray, n: int) -> FloatArray:
    """[N] Chance of each value to be the one chosen from n that are drawn without replacement."""
    _, level, counts = np.unique(proxy, return_inverse=True, return_counts=True)
    upto = np.concatenate([[0], np.cumsum(counts)])
    drawn = np.arange(n)
    # Chance that all n are among the lowest `upto`: C(upto, n)/C(N, n).
    all_below = np.prod((upto[:, None] - drawn).clip(min=0) / (len(proxy) - drawn), axis=1)
    return (np.diff(all_below) / counts)[level]
