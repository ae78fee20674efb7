"""What an answer without a reward becomes, which is never a made-up number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from rubric_rl.errors import DataError, JudgeFailureError
from rubric_rl.integrations.prompt_lookup import PromptLookup
from rubric_rl.integrations.scored_answers import (
    ScoredAnswer,
    ScoreRequest,
    Unscored,
    rewards_for,
    score_with_attempts,
    user_turn,
)
from rubric_rl.types import Message

from .judges import prompt


def _scored(prompt_id: str, reward: float | None) -> ScoredAnswer:
    unscored = "c1 (timeout)" if reward is None else None
    return ScoredAnswer(prompt_id=prompt_id, reward=reward, coverage=1.0, unscored=unscored)


MIXED = [_scored("p1", 0.25), _scored("p1", None), _scored("p1", 0.75), _scored("p2", 1.0)]


def test_scored_answers_are_the_same_under_every_policy() -> None:
    whole = [_scored("p1", 0.0), _scored("p2", -0.5)]
    for unscored in ("error", "nan", "none", "group_mean"):
        assert rewards_for(whole, unscored) == [0.0, -0.5]


def test_none_and_nan_stand_where_a_reward_is_missing() -> None:
    assert rewards_for(MIXED, "none") == [0.25, None, 0.75, 1.0]
    with_nan = rewards_for(MIXED, "nan")
    assert math.isnan(with_nan[1] or 0.0)
    assert with_nan[:1] + with_nan[2:] == [0.25, 0.75, 1.0]


def test_group_mean_is_that_of_the_prompts_own_scored_answers() -> None:
    # (0.25 + 0.75) / 2: the other prompt's 1.0 has no part in it, and the advantage is 0.
    assert rewards_for(MIXED, "group_mean") == [0.25, 0.5, 0.75, 1.0]


def test_an_error_says_how_many_and_why() -> None:
    with pytest.raises(JudgeFailureError, match=r"1 of 4 .*'p1': c1 \(timeout\)"):
        rewards_for(MIXED, "error")


@pytest.mark.parametrize("unscored", ["none", "group_mean"])
def test_a_batch_that_is_mostly_unscored_is_no_batch(unscored: Unscored) -> None:
    mostly = [_scored("p1", 1.0), _scored("p1", None), _scored("p1", None)]
    with pytest.raises(JudgeFailureError, match="2 of 3"):
        rewards_for(mostly, unscored)


def test_a_group_without_any_reward_has_no_mean() -> None:
    with pytest.raises(JudgeFailureError, match="1 of 2"):
        rewards_for([_scored("p1", 0.5), _scored("p2", None)], "group_mean")


class _FailsFirst:
    """Scores an answer at its n-th try, where the answer is the number n."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoredAnswer]:
        self.asked.append([request.response for request in requests])
        tries = len(self.asked)
        return [_scored("p", 0.5 if int(r.response) <= tries else None) for r in requests]


def test_only_what_failed_is_asked_for_again() -> None:
    source = _FailsFirst()
    requests = [ScoreRequest(response=text, prompt_id="p") for text in ("1", "3", "2", "9")]
    scored = score_with_attempts(source, requests, attempts=3)
    assert source.asked == [["1", "3", "2", "9"], ["3", "2", "9"], ["3", "9"]]
    assert [answer.reward for answer in scored] == [0.5, 0.5, 0.5, None]


# ----------------------------------------------------------------------------
# Which prompt


TWINS = {
    "one": prompt("one", "Same?"),
    "two": prompt("two", "Same?"),
    "long": prompt("long", "Hi", "Hello", "And now?"),
}
LONG = TWINS["long"].record.messages


def _found(prompt_id: str | None = None, messages: tuple[Message, ...] | None = None) -> str:
    request = ScoreRequest(response="", prompt_id=prompt_id, messages=messages)
    return PromptLookup(TWINS).find(request).record.prompt_id


def test_an_id_is_enough_and_so_is_the_whole_conversation() -> None:
    assert _found("two") == "two"
    assert _found("two", user_turn("Same?")) == "two"
    assert _found(None, LONG) == "long"


@pytest.mark.parametrize(
    ("prompt_id", "messages", "words"),
    [
        ("three", None, "'three' is not among the 3 prompts"),
        ("two", LONG, "not that of prompt_id 'two'"),
        (None, None, "neither a prompt's id nor its conversation"),
        (None, user_turn("Same?"), "'one', 'two' have the same conversation"),
        (None, user_turn("same?"), "exactly the conversation"),
        (None, LONG[-1:], "exactly the conversation"),
    ],
)
def test_a_rubric_is_never_guessed(
    prompt_id: str | None, messages: tuple[Message, ...] | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        _found(prompt_id, messages)
