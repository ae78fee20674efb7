"""Best of n: of n answers to a prompt, the one with the highest reward.

The strongest baseline that needs no training. What n answers are worth on average is
exact arithmetic over all draws (`theory.answers`); here one draw is made for each prompt,
so that its answers can be compared with another policy's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.refinement.records import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewarded:
    """An answer with its reward and what it is really worth; None where that isn't known."""

    candidate: Candidate
    reward: float | None
    gold: float | None = None


def best_of(answers: Sequence[Rewarded], n: int, *, seed: int) -> Rewarded | None:
    """The best by reward of n that are drawn from the scored answers to one prompt.

    The draw is without replacement and, for one seed, that of a smaller n is part of that of a
    larger one. Of equal rewards the one that was drawn first is taken, which is chance. None
    if fewer than n answers are scored: an unscored one is neither good nor bad.
    """
    scored = [answer for answer in answers if answer.reward is not None]
    if n < 1:
        raise ValueError(f"got n = {n}, want at least 1")
    if len(scored) < n:
        return None
    prompt_id = scored[0].candidate.prompt_id
    random.Random(f"{seed}:{prompt_id}").shuffle(scored)
    return max(scored[:n], key=lambda answer: answer.reward or 0.0)
