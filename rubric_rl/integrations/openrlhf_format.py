"""OpenRLHF's side: what it hands to a reward, and what it takes back.

An answer comes as one decoded text with its prompt:

    query   "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello!<|im_end|>"
    prompt  "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"
    answer  "Hello!"

The label is the prompt's id. Without a label the prompt must be the plain text of a
conversation of one turn, as in a dataset without chat template. A reply is
{rewards, scores, extra_logs}, over HTTP as from a reward function.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.errors import DataError
from rubric_rl.integrations.scored_answers import (
    ScoredAnswer,
    ScoreRequest,
    Unscored,
    rewards_for,
    user_turn,
)

END_OF_TURN = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
)
"""How models end a turn; taken off the end of an answer, where nothing else may follow."""


def score_requests(
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[str | None],
    end_of_turn: Sequence[str] = END_OF_TURN,
) -> list[ScoreRequest]:
    """Raises DataError: lists of unequal length, or a query that doesn't begin with its prompt."""
    if not len(queries) == len(prompts) == len(labels):
        raise DataError(
            f"got {len(queries)} queries, {len(prompts)} prompts and {len(labels)} labels, want "
            "as many of each"
        )
    return [
        ScoreRequest(
            response=answer_of(query, prompt, end_of_turn),
            prompt_id=label or None,
            messages=None if label else user_turn(prompt),
        )
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]


def reply_of(scored: Sequence[ScoredAnswer], unscored: Unscored) -> dict[str, object]:
    """Rewards [B], and numbers to log, of which OpenRLHF makes tensors.

    Raises JudgeFailureError as `rewards_for`.
    """
    rewards = rewards_for(scored, unscored)
    logs = {
        "rubric_coverage": [answer.coverage for answer in scored],
        "rubric_unscored": [float(answer.reward is None) for answer in scored],
    }
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}


def answer_of(query: str, prompt: str, end_of_turn: Sequence[str] = END_OF_TURN) -> str:
    """What follows the prompt, without the tokens that end it. Raises DataError."""
    answer = query[_length_of(prompt, query) :]
    ending = True
    while ending:
        ending = False
        for token in end_of_turn:
            if answer.rstrip().endswith(token):
                answer, ending = answer.rstrip().removesuffix(token), True
    return answer


def _length_of(prompt: str, query: str) -> int:
    """Characters of the query that are the prompt; decoding may have changed its white space."""
    if query.startswith(prompt):
        return len(prompt)
    position = 0
    for character in prompt:
        if character.isspace():
            continue
        while position < len(query) and query[position].isspace():
            position += 1
        if query[position : position + 1] != character:
            raise DataError(
                "a query doesn't begin with its prompt, so its answer can't be told: is the "
                "prompt longer than OpenRLHF's --data.max_len allows? "
                f"The query begins {query[:60]!r}, the prompt {prompt[:60]!r}"
            )
        position += 1
    return position
