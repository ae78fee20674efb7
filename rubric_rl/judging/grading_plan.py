"""What grading will take, told before anything is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.judging.chat import total_chars
from rubric_rl.judging.grading import Answer
from rubric_rl.judging.model_table import prices_of
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.types import Criterion

# English prose; other languages and code take more tokens for the same characters.
_CHARS_PER_TOKEN = 3.5
# A verdict in JSON with a reason of one or two sentences.
_REPLY_TOKENS_PER_VERDICT = 60
_NONCE = "0" * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingPlan:
    """Estimates for answers whose verdicts are in no cache and whose calls all succeed."""

    num_answers: int
    num_rule_criteria: int
    num_llm_criteria: int
    num_calls: int
    """Where votes are taken: as many as decide when all agree."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    """None where the model's price is not known."""


def plan_grading(
    answers: Sequence[Answer], llm: LlmJudgeConfig | None, templates: JudgeTemplates
) -> GradingPlan:
    """Count calls, and estimate tokens from the very messages that would be sent."""
    criteria = [criterion for answer in answers for criterion in answer.rubric.criteria]
    num_rules = sum(criterion.rule is not None for criterion in criteria)
    calls = [] if llm is None else [c for a in answers for c in _calls(a, llm, templates)]
    prompt_tokens, completion_tokens = sum(c[0] for c in calls), sum(c[1] for c in calls)
    prices = None if llm is None else prices_of(llm)
    cost = None if prices is None else prices.cost(prompt_tokens, completion_tokens)
    return GradingPlan(
        num_answers=len(answers),
        num_rule_criteria=num_rules,
        num_llm_criteria=len(criteria) - num_rules,
        num_calls=len(calls),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=0.0 if llm is None else cost,
    )


def _calls(answer: Answer, llm: LlmJudgeConfig, templates: JudgeTemplates) -> list[tuple[int, int]]:
    """Prompt and completion tokens of each call for one answer."""
    criteria = [criterion for criterion in answer.rubric.criteria if criterion.rule is None]
    size = {"chunk": llm.chunk_size, "each": 1}.get(llm.mode, len(criteria))
    portions = [criteria[start : start + size] for start in range(0, len(criteria), size or 1)]
    polls = 1 if llm.votes == 1 else llm.majority
    return [_call(answer, portion, llm, templates) for portion in portions] * polls


def _call(
    answer: Answer,
    criteria: Sequence[Criterion],
    llm: LlmJudgeConfig,
    templates: JudgeTemplates,
) -> tuple[int, int]:
    messages = templates.messages(
        conversation=answer.record.messages,
        answer=answer.response,
        criteria=criteria,
        nonce=_NONCE,
        reference=answer.record.reference if llm.show_reference else None,
    )
    reply = min(llm.max_reply_tokens, len(criteria) * _REPLY_TOKENS_PER_VERDICT)
    return math.ceil(total_chars(messages) / _CHARS_PER_TOKEN), reply
