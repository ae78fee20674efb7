"""The reward server's requests and responses."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from rubric_rl.data.records import parse_messages
from rubric_rl.errors import DataError
from rubric_rl.integrations.scored_answers import ScoredAnswer, ScoreRequest
from rubric_rl.judging.graded_rows import GradedRow, GradedVerdict
from rubric_rl.types import Message


class AnswerIn(BaseModel):
    """One answer, and its prompt by `prompt_id`, `messages` or both; see `prompt_lookup`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    response: str
    prompt_id: str | None = None
    messages: list[dict[str, str]] | None = None
    """The conversation that is answered, its last turn the user's."""


class ScoreIn(BaseModel):
    """Body of `/v1/score`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answers: list[AnswerIn] = Field(min_length=1)
    verdicts: bool = True
    """Send the verdict on each criterion along."""


class OpenRlhfIn(BaseModel):
    """What OpenRLHF posts: three lists of equal length. Keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True)

    query: list[str] = Field(min_length=1)
    """Prompt and answer as decoded tokens, special tokens included."""
    prompts: list[str]
    labels: list[str | None]
    """Ids of the prompts: the dataset's column `label`, as `rubrics export` writes it."""


def requests_of(body: ScoreIn) -> list[ScoreRequest]:
    """Raises DataError: a conversation is none; names the answer."""
    return [
        ScoreRequest(
            response=answer.response,
            prompt_id=answer.prompt_id,
            messages=conversation(answer.messages, f"answers[{index}].messages"),
        )
        for index, answer in enumerate(body.answers)
    ]


def conversation(raw: object, where: str) -> tuple[Message, ...] | None:
    """None of None. Raises DataError if it is no conversation that ends with the user's turn."""
    if raw is None:
        return None
    messages, problems = parse_messages(raw)
    if problems:
        raise DataError(f"{where}: {'; '.join(map(str, problems))}")
    return messages


def result_out(answer: ScoredAnswer, row: GradedRow | None, *, verdicts: bool) -> dict[str, object]:
    """One of the `results` that `/v1/score` answers with; `row` is None out of time."""
    result: dict[str, object] = {
        "prompt_id": answer.prompt_id,
        "reward": answer.reward,
        "coverage": answer.coverage,
        "unscored": answer.unscored,
    }
    if row is None:
        return result
    result |= {
        "gated_from": row.gated_from,
        "rubric_id": row.rubric_id,
        "judge_id": row.judge_id,
        "cost_usd": row.usage.cost_usd,
        "latency_s": row.latency_s,
    }
    return result | ({"verdicts": [_verdict(v) for v in row.verdicts]} if verdicts else {})


def _verdict(verdict: GradedVerdict) -> dict[str, object]:
    return {
        "id": verdict.cid,
        "verdict": verdict.verdict.value,
        "reason": verdict.reason,
        "cause": None if verdict.cause is None else verdict.cause.value,
        "probability": verdict.probability,
        "cached": verdict.cached,
        "by_rule": verdict.by_rule,
    }
