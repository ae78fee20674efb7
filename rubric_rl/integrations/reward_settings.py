"""Where an adapter gets its rewards: from arguments, or from the environment.

url        RUBRIC_RL_URL        a reward server, as in http://host:8900
           RUBRIC_RL_API_KEY    its key, if it wants one; never an argument
rubrics    RUBRIC_RL_RUBRICS    instead: file with prompts and rubrics, judged in this process
judge      RUBRIC_RL_JUDGE      overrides for this judge: a list, or a text with blanks between
unscored   RUBRIC_RL_UNSCORED   what an answer without a reward becomes, after 3 attempts; see
                                `scored_answers.Unscored`
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.errors import ConfigError
from rubric_rl.integrations.remote_rewards import RemoteRewards
from rubric_rl.integrations.scored_answers import (
    RewardSource,
    ScoredAnswer,
    ScoreRequest,
    Unscored,
    score_with_attempts,
)

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """Where rewards come from, and what happens without one."""

    url: str | None
    rubrics: str | None
    judge: tuple[str, ...]
    unscored: Unscored

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoredAnswer]:
        """In the order of `requests`; the source is opened once a process. Raises RubricRLError."""
        source = _source(self.url, self.rubrics, self.judge)
        return score_with_attempts(source, requests, _ATTEMPTS)


def reward_settings(
    trainer: str,
    allowed: Sequence[Unscored],
    *,
    url: str | None = None,
    rubrics: str | None = None,
    judge: str | Sequence[str] | None = None,
    unscored: str | None = None,
) -> RewardSettings:
    """Arguments, and the environment for those that are None; the first of `allowed` is default.

    A `url` or `rubrics` given as an argument hides both variables. Raises ConfigError.
    """
    environment = os.environ
    if url is None and rubrics is None:
        url, rubrics = environment.get("RUBRIC_RL_URL"), environment.get("RUBRIC_RL_RUBRICS")
    if bool(url) == bool(rubrics):
        raise ConfigError(
            "rewards come from a server (url, or RUBRIC_RL_URL) or from a file with rubrics "
            f"(rubrics, or RUBRIC_RL_RUBRICS): got {'both' if url else 'neither'}, set one of them"
        )
    judge = environment.get("RUBRIC_RL_JUDGE", "") if judge is None else judge
    overrides = tuple(shlex.split(judge) if isinstance(judge, str) else judge)
    if url and overrides:
        raise ConfigError(
            "judge (RUBRIC_RL_JUDGE) is for rubrics that are judged in this process, and the "
            "rewards come from a server, which has a judge of its own: leave it out"
        )
    named = unscored or environment.get("RUBRIC_RL_UNSCORED") or allowed[0]
    for policy in allowed:
        if policy == named:
            return RewardSettings(
                url=url or None, rubrics=rubrics or None, judge=overrides, unscored=policy
            )
    raise ConfigError(f"unscored={named!r} is nothing for {trainer}: take {' or '.join(allowed)}")


# Sources that are open. A fork's child opens its own: threads stay behind.
_sources: dict[tuple[object, ...], RewardSource] = {}
_opening = threading.Lock()


def _source(url: str | None, rubrics: str | None, judge: tuple[str, ...]) -> RewardSource:
    with _opening:
        if (url, rubrics, judge) not in _sources:
            _sources[url, rubrics, judge] = _opened(url, rubrics, judge)
        return _sources[url, rubrics, judge]


def _opened(url: str | None, rubrics: str | None, judge: tuple[str, ...]) -> RewardSource:
    if url is not None:
        return RemoteRewards(url, api_key=os.environ.get("RUBRIC_RL_API_KEY"))
    # Brings Hydra and the judge's client in, which a process that asks a server needn't have.
    from rubric_rl.integrations.local_rewards import LocalRewards

    assert rubrics is not None
    return LocalRewards(rubrics, judge)


def _begin_anew() -> None:
    global _opening
    _opening = threading.Lock()
    _sources.clear()


os.register_at_fork(after_in_child=_begin_anew)
