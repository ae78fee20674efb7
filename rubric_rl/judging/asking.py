"""Ask the chat model: split criteria over calls, read replies, ask again for what is missing.

    poll:  portions of criteria --(one call each, side by side)--> verdicts
           what a reply left UNKNOWN is asked again, under a new nonce, at most max_asks times

Votes are several polls; see `votes`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.judging.chat import Caller, CallResult, ChatRequest
from rubric_rl.judging.probability import met_probabilities
from rubric_rl.judging.reply import (
    LIKERT,
    MET_OR_UNMET,
    ParsedReply,
    all_unknown,
    parse_reply,
    reply_schema,
)
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.types import (
    Criterion,
    FailureCause,
    JudgeContract,
    JudgeRequest,
    JudgeUsage,
    Verdict,
)

logger = logging.getLogger(__name__)

# What a model got wrong once it may get right when asked again. Failures of the call
# itself were retried by the caller already.
_ASKED_AGAIN = (
    FailureCause.TRUNCATED,
    FailureCause.UNPARSEABLE,
    FailureCause.WRONG_NONCE,
    FailureCause.MISSING,
    FailureCause.DUPLICATE,
    FailureCause.OUT_OF_CHOICE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmJudge:
    """The chat model that a `RubricJudge` asks."""

    caller: Caller
    config: LlmJudgeConfig
    contract: JudgeContract
    served_model: str
    """The model that its replies name; empty if they name none."""

    @property
    def judge_id(self) -> str:
        """The model, whatever endpoint it is reached at."""
        named = self.served_model and self.served_model != self.config.model
        return f"{self.config.model}={self.served_model}" if named else self.config.model

    @property
    def mode(self) -> str:
        """As a judgement names it: `all`, `chunk:4`, `each` or `likert`."""
        size = f":{self.config.chunk_size}" if self.config.mode == "chunk" else ""
        return f"{self.config.mode}{size}"


@dataclass(slots=True)
class Tally:
    """What the calls of one sample came to, and which criterion caused which share of it."""

    usage: JudgeUsage = field(default_factory=JudgeUsage)
    tokens: dict[str, float] = field(default_factory=dict[str, float])
    """By criterion: the tokens of its calls, shared equally over the criteria of a call."""
    cost_usd: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, usage: JudgeUsage, cids: Sequence[str]) -> None:
        self.usage = self.usage + usage
        for cid in cids:
            self.tokens[cid] = self.tokens.get(cid, 0.0) + usage.tokens / len(cids)
            self.cost_usd[cid] = self.cost_usd.get(cid, 0.0) + usage.cost_usd / len(cids)


class Asker:
    """Asks for verdicts on the criteria of one sample."""

    def __init__(
        self,
        llm: LlmJudge,
        templates: JudgeTemplates,
        request: JudgeRequest,
        tally: Tally,
        new_nonce: Callable[[], str],
    ) -> None:
        self._llm = llm
        self._templates = templates
        self._request = request
        self._tally = tally
        self._new_nonce = new_nonce
        self._choices = LIKERT if llm.config.mode == "likert" else MET_OR_UNMET

    async def poll(self, criteria: Sequence[Criterion]) -> dict[str, Verdict]:
        """One verdict on each criterion; UNKNOWN where the model gave none in `max_asks` asks."""
        verdicts: dict[str, Verdict] = {}
        pending = criteria
        for _ in range(self._llm.config.max_asks):
            portions = self._portions(pending)
            for found in await asyncio.gather(*(self._ask(portion) for portion in portions)):
                verdicts |= found
            pending = [c for c in criteria if verdicts[c.cid].cause in _ASKED_AGAIN]
            if not pending:
                break
        return verdicts

    def _portions(self, criteria: Sequence[Criterion]) -> list[Sequence[Criterion]]:
        config = self._llm.config
        size = {"chunk": config.chunk_size, "each": 1}.get(config.mode, len(criteria))
        return [criteria[start : start + size] for start in range(0, len(criteria), size)]

    async def _ask(self, criteria: Sequence[Criterion]) -> dict[str, Verdict]:
        """One call. A call without a reply gives UNKNOWN for all, with the call's cause."""
        nonce, cids = self._new_nonce(), [criterion.cid for criterion in criteria]
        result = await self._llm.caller.call(self._chat_request(criteria, nonce))
        verdicts, unknown_ids = self._read(result, cids, nonce)
        self._tally.add(replace(result.usage, unknown_ids=unknown_ids), cids)
        return verdicts

    def _chat_request(self, criteria: Sequence[Criterion], nonce: str) -> ChatRequest:
        config, contract = self._llm.config, self._llm.contract
        record = self._request.record
        structured = contract == "structured_outputs"
        return ChatRequest(
            messages=self._templates.messages(
                conversation=record.messages,
                answer=self._request.sample.text,
                criteria=criteria,
                nonce=nonce,
                contract=contract,
                reference=record.reference if config.show_reference else None,
            ),
            contract=contract,
            schema=reply_schema([c.cid for c in criteria], self._choices) if structured else None,
            max_tokens=config.max_reply_tokens,
            logprobs=config.logprobs,
        )

    def _read(
        self, result: CallResult, cids: Sequence[str], nonce: str
    ) -> tuple[dict[str, Verdict], int]:
        if result.error is not None:
            err = result.error
            prompt_id = self._request.record.prompt_id
            logger.info("judge call for prompt %r: %s: %s", prompt_id, err.cause, err)
            return all_unknown(cids, err.cause, str(err)).verdicts, 0
        assert result.reply is not None
        reply = result.reply

        def read(text: str) -> ParsedReply:
            return parse_reply(
                text, reply.finish_reason, cids, nonce, self._llm.contract, self._choices
            )

        parsed = read(reply.text)
        verdicts = dict(parsed.verdicts)
        for cid, probability in met_probabilities(reply, parsed, read).items():
            verdicts[cid] = replace(verdicts[cid], probability=probability)
        return verdicts, parsed.num_unknown_ids
