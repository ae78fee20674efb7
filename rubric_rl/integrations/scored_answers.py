"""What trainers hand in and get back, whoever judges: an answer in, a reward out.

    ScoreRequest --RewardSource--> ScoredAnswer --`rewards_for`--> what a trainer takes

Light on purpose: it is imported inside other trainers' processes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rubric_rl.errors import JudgeFailureError
from rubric_rl.types import Message

Unscored = Literal["error", "nan", "none", "group_mean"]
"""What a trainer gets in place of the reward that an unscored answer doesn't have.

    error       nothing: the batch fails
    nan, none   NaN or None, for trainers that drop such samples by themselves
    group_mean  the mean of the prompt's scored answers in the batch, which gives an advantage
                of 0 to it and, where deviations divide, slightly larger ones to the others
"""

# As the default of rubrics.max_unscored_frac: beyond it the judge is down.
_MAX_UNSCORED_FRAC = 0.5
# Answers without a reward that an error tells of.
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One answer, and the prompt that it answers by id, by conversation or by both."""

    response: str
    prompt_id: str | None = None
    messages: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAnswer:
    """Reward and coverage of one answer; `unscored` says why `reward` is None."""

    prompt_id: str
    reward: float | None
    coverage: float
    unscored: str | None


class RewardSource(Protocol):
    """A judge in this process, or a reward server."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoredAnswer]:
        """In the order of `requests`. Raises RubricRLError."""
        ...


def user_turn(text: str) -> tuple[Message, ...]:
    """The conversation that is one turn of the user."""
    return (Message(role="user", content=text),)


def score_with_attempts(
    source: RewardSource, requests: Sequence[ScoreRequest], attempts: int
) -> list[ScoredAnswer]:
    """Scores in the order of `requests`; those that fail are asked for again.

    Verdicts that were given are in the judge's cache, so another attempt costs what failed.
    """
    scored = source.score(requests)
    for _ in range(attempts - 1):
        missing = [index for index, answer in enumerate(scored) if answer.reward is None]
        if not missing:
            break
        again = source.score([requests[index] for index in missing])
        for index, answer in zip(missing, again, strict=True):
            scored[index] = answer
    return scored


def rewards_for(answers: Sequence[ScoredAnswer], unscored: Unscored) -> list[float | None]:
    """A reward for each answer, in order, as the trainer is to see it; never a made-up 0.

    Raises:
        JudgeFailureError: under `error` an answer is unscored, under `group_mean` all of a prompt,
            or under one that is for whole batches more than half of them.
    """
    missing = sum(answer.reward is None for answer in answers)
    if unscored in ("none", "group_mean") and missing > _MAX_UNSCORED_FRAC * len(answers):
        raise JudgeFailureError(_in_words(answers))
    of_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.reward is not None:
            of_prompt[answer.prompt_id].append(answer.reward)
    rewards: list[float | None] = []
    for answer in answers:
        group = of_prompt[answer.prompt_id]
        if answer.reward is not None:
            rewards.append(answer.reward)
        elif unscored == "group_mean" and group:
            rewards.append(math.fsum(group) / len(group))
        elif unscored in ("nan", "none"):
            rewards.append(math.nan if unscored == "nan" else None)
        else:
            raise JudgeFailureError(_in_words(answers))
    return rewards


def _in_words(answers: Sequence[ScoredAnswer]) -> str:
    missing = [answer for answer in answers if answer.reward is None]
    some = "; ".join(f"prompt {a.prompt_id!r}: {a.unscored}" for a in missing[:_SHOWN])
    return f"{len(missing)} of {len(answers)} answers have no reward: {some}"
