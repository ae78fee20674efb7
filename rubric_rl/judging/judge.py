"""The judge: a verdict, or UNKNOWN with its cause, on every criterion of a rubric.

Criteria with a rule are executed. The others go to the chat model together, in
one call; what it leaves UNKNOWN is asked again, alone and under a new nonce,
until `max_asks` calls are made. A verdict once given stands. Nothing that the
model or the network does is an exception here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rubric_rl.config.schema import LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.judging.chat import ChatClient, ChatError
from rubric_rl.judging.reply import all_unknown, parse_reply, reply_schema
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.rubrics.rules import RuleCheck, RuleTimeoutError
from rubric_rl.types import (
    Criterion,
    FailureCause,
    Judgement,
    JudgeRequest,
    Rubric,
    Verdict,
    VerdictValue,
)

logger = logging.getLogger(__name__)

RULES = "rules"
"""`judge_id` and `mode` of a judgement that needed no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmJudge:
    """The chat model that a `RubricJudge` asks."""

    client: ChatClient
    config: LlmJudgeConfig
    structured_output: bool
    """Constrain replies by a JSON schema; see `endpoint.check_endpoint`."""


def check_rubrics(rubrics: Iterable[Rubric], *, has_llm: bool) -> None:
    """Check that each criterion has a judge.

    Raises:
        ConfigError: criteria without a rule and no LLM judge; counts them and says what to set.
    """
    if has_llm:
        return
    num_prompts, without_rule = 0, []
    for rubric in rubrics:
        num_prompts += 1
        without_rule += [(rubric.prompt_id, c.cid) for c in rubric.criteria if c.rule is None]
    if without_rule:
        prompt_id, cid = without_rule[0]
        affected = len({prompt_id for prompt_id, _ in without_rule})
        raise ConfigError(
            f"{affected} of {num_prompts} prompts have criteria without a rule "
            f"({len(without_rule)} criteria, the first is {cid!r} of prompt {prompt_id!r}), and "
            "no LLM judge is configured: set judge=openai with judge.llm.base_url and "
            "judge.llm.model, or give each of these criteria a rule"
        )


@dataclass(slots=True)
class _Tally:
    """What the calls of one sample came to."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def _new_nonce() -> str:
    return secrets.token_hex(4)


class RubricJudge:
    """Judges one sample after the other, or many at once from one event loop."""

    def __init__(
        self, llm: LlmJudge | None = None, *, new_nonce: Callable[[], str] = _new_nonce
    ) -> None:
        """Without `llm`, every criterion must carry a rule; see `check_rubrics`."""
        self._llm = llm
        self._templates = JudgeTemplates.load()
        self._new_nonce = new_nonce

    async def judge(self, request: JudgeRequest) -> Judgement:
        """Give all verdicts, in the order of the rubric's criteria."""
        started = time.perf_counter()
        criteria, tally = request.rubric.criteria, _Tally()
        # In a thread: a hostile answer can hold a pattern for its whole time limit, and
        # other samples' replies must not seem late meanwhile.
        verdicts = await asyncio.to_thread(_check_rules, criteria, request.sample.text)
        for_llm = [criterion for criterion in criteria if criterion.rule is None]
        if for_llm:
            verdicts |= await self._ask_until_known(request, for_llm, tally)
        return Judgement(
            rubric_id=request.rubric.rubric_id,
            rubric_version=request.rubric.version,
            judge_id=self._judge_id(criteria),
            template_hash=self._templates.template_hash if for_llm else "",
            mode="all" if for_llm else RULES,
            verdicts=tuple(verdicts[criterion.cid] for criterion in criteria),
            num_calls=tally.calls,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            latency_s=time.perf_counter() - started,
        )

    def _judge_id(self, criteria: Sequence[Criterion]) -> str:
        parts = []
        if self._llm is not None and any(criterion.rule is None for criterion in criteria):
            parts.append(self._llm.config.model)
        if any(criterion.rule is not None for criterion in criteria):
            parts.append(RULES)
        return "+".join(parts)

    async def _ask_until_known(
        self, request: JudgeRequest, criteria: Sequence[Criterion], tally: _Tally
    ) -> dict[str, Verdict]:
        assert self._llm is not None, "criteria without a rule need check_rubrics(has_llm=True)"
        verdicts: dict[str, Verdict] = {}
        pending = criteria
        for _ in range(self._llm.config.max_asks):
            verdicts |= await self._ask(self._llm, request, pending, tally)
            pending = [c for c in criteria if verdicts[c.cid].value is VerdictValue.UNKNOWN]
            if not pending or verdicts[pending[0].cid].cause is FailureCause.REFUSED_REQUEST:
                break  # nothing left to ask, or a request that would be refused again
        return verdicts

    async def _ask(
        self, llm: LlmJudge, request: JudgeRequest, criteria: Sequence[Criterion], tally: _Tally
    ) -> dict[str, Verdict]:
        """One call. A call without a reply gives UNKNOWN for all, with the call's cause."""
        nonce, cids = self._new_nonce(), [criterion.cid for criterion in criteria]
        messages = self._templates.messages(
            conversation=request.record.messages,
            answer=request.sample.text,
            criteria=criteria,
            nonce=nonce,
        )
        tally.calls += 1
        try:
            reply = await llm.client.complete(
                messages,
                schema=reply_schema(cids, nonce) if llm.structured_output else None,
                max_tokens=llm.config.max_reply_tokens,
            )
        except ChatError as err:
            logger.info(
                "judge call for prompt %r: %s: %s", request.record.prompt_id, err.cause, err
            )
            return all_unknown(cids, err.cause, str(err)).verdicts
        tally.prompt_tokens += reply.prompt_tokens
        tally.completion_tokens += reply.completion_tokens
        return parse_reply(reply.text, reply.finish_reason, cids, nonce).verdicts


def _check_rules(criteria: Sequence[Criterion], text: str) -> dict[str, Verdict]:
    return {c.cid: _check_rule(c.cid, c.rule, text) for c in criteria if c.rule is not None}


def _check_rule(cid: str, rule: RuleCheck, text: str) -> Verdict:
    try:
        outcome = rule.check(text)
    except RuleTimeoutError as err:
        reason = f"the rule ran out of time: {err}"
        return Verdict(
            cid=cid, value=VerdictValue.UNKNOWN, reason=reason, cause=FailureCause.RULE_TIMEOUT
        )
    value = VerdictValue.MET if outcome.met else VerdictValue.UNMET
    return Verdict(cid=cid, value=value, reason=outcome.reason)
