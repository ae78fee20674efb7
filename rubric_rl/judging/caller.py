"""One call of a chat model, with everything that it takes to get a reply.

    attempt:  lease --> request --> reply | error     (late: a second request beside it)
    call:     attempts until there is a reply, at another endpoint after a failure,
              within the retries and the deadline

What a call took is counted whether it succeeds or not: every request sent is in
`usage.calls`, and all but the first of them in `retries` or `hedges`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from rubric_rl.config.judge import JudgeBudgetConfig, LlmJudgeConfig
from rubric_rl.judging.chat import (
    CallResult,
    ChatClient,
    ChatError,
    ChatReply,
    ChatRequest,
    total_chars,
)
from rubric_rl.judging.lease_desk import LeaseDesk
from rubric_rl.judging.leases import Lease, Outcome, OutcomeKind
from rubric_rl.judging.model_table import Prices
from rubric_rl.types import FailureCause, JudgeUsage

_CHARS_PER_TOKEN = 3.5
# Languages and tokenizers differ; the limit of money must hold for all of them.
_WORST_CHARS_PER_TOKEN = 1.0
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 15.0
# Statuses that blame this endpoint rather than the request.
_ENDPOINT_STATUSES = (401, 403, 404)
_RETRIED = (
    FailureCause.RATE_LIMITED,
    FailureCause.TRANSPORT,
    FailureCause.TIMEOUT,
    FailureCause.WRONG_JUDGE,
)
_OUTCOMES: dict[FailureCause, OutcomeKind] = {
    FailureCause.RATE_LIMITED: "rate_limited",
    FailureCause.TIMEOUT: "timeout",
    FailureCause.REFUSED_REQUEST: "refused",
    FailureCause.WRONG_JUDGE: "wrong_judge",
}


@dataclass(slots=True)
class _Tally:
    """What one call has taken so far."""

    usage: JudgeUsage = field(default_factory=JudgeUsage)
    failed_at: str | None = None
    """Endpoint of the last failure."""
    attempts: int = 0

    def add(self, more: JudgeUsage) -> None:
        self.usage = self.usage + more


@dataclass(slots=True)
class _ReplyLengths:
    """Running mean of the tokens of replies, for the estimate of the next."""

    mean: float
    weight: float = field(default=0.05)

    def add(self, tokens: int) -> None:
        self.mean += self.weight * (tokens - self.mean)


class PooledCaller:
    """A `Caller` over several endpoints and the cluster's budget."""

    def __init__(
        self,
        desk: LeaseDesk,
        clients: Mapping[str, ChatClient],
        llm: LlmJudgeConfig,
        budget: JudgeBudgetConfig,
        *,
        served_model: str,
        prices: Prices | None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`served_model`: the model that replies must name; empty if endpoints name none."""
        self._desk = desk
        self._clients = clients
        self._llm = llm
        self._budget = budget
        self._served_model = served_model
        self._prices = prices
        self._sleep = sleep
        self._jitter = jitter
        self._lengths = _ReplyLengths(mean=llm.max_reply_tokens / 4)

    async def call(self, request: ChatRequest) -> CallResult:
        """See `Caller.call`."""
        tally, last = _Tally(), None
        try:
            async with asyncio.timeout(self._budget.deadline_s):
                for attempt in range(self._llm.max_retries + 1):
                    if attempt:
                        await self._sleep(self._wait_s(attempt))
                    try:
                        reply = await self._attempt(request, tally)
                    except ChatError as err:
                        last = err
                        if not self._is_worth_a_retry(err):
                            break
                    else:
                        return CallResult(usage=tally.usage, reply=reply)
        except TimeoutError:
            last = last or ChatError(
                FailureCause.TIMEOUT,
                f"no reply within judge.budget.deadline_s={self._budget.deadline_s:g}",
            )
        assert last is not None, "an attempt gives a reply or an error"
        return CallResult(usage=tally.usage, error=last)

    async def close(self) -> None:
        await self._desk.close()
        for client in self._clients.values():
            await client.close()

    def _wait_s(self, attempt: int) -> float:
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1)) * (0.5 + self._jitter())

    def _is_worth_a_retry(self, err: ChatError) -> bool:
        if err.cause is FailureCause.REFUSED_REQUEST:
            return err.status in _ENDPOINT_STATUSES and len(self._clients) > 1
        return err.cause in _RETRIED

    # ------------------------------------------------------------------------
    # One attempt

    async def _attempt(self, request: ChatRequest, tally: _Tally) -> ChatReply:
        """A reply to one request, or to a second one sent because the first is late."""
        lease = await self._acquire(request, tally.failed_at)
        tally.attempts += 1
        tally.add(JudgeUsage(retries=int(tally.attempts > 1)))
        if lease.hedge_after_s is None:
            # Not in a task: one that is cancelled before it starts would never end its lease.
            return await self._send(request, lease, tally)
        first = asyncio.create_task(self._send(request, lease, tally))
        try:
            await asyncio.wait({first}, timeout=lease.hedge_after_s)
            return await (first if first.done() else self._hedged(request, lease, first, tally))
        finally:
            await _cancelled(first)

    async def _hedged(
        self, request: ChatRequest, lease: Lease, first: asyncio.Task[ChatReply], tally: _Tally
    ) -> ChatReply:
        hedges = tally.usage.hedges
        second = asyncio.create_task(self._hedge(request, lease, tally))
        try:
            pending = {first, second}
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        return task.result()
                if first in done and tally.usage.hedges == hedges:
                    break  # the second still waits for its lease: a retry has its own wait
            return await first  # none replied: the first one's error counts
        finally:
            await _cancelled(second)

    async def _hedge(self, request: ChatRequest, lease: Lease, tally: _Tally) -> ChatReply:
        second = await self._acquire(request, lease.endpoint)
        tally.add(JudgeUsage(hedges=1))
        return await self._send(request, second, tally)

    async def _acquire(self, request: ChatRequest, avoid: str | None) -> Lease:
        chars = total_chars(request.messages)
        tokens = round(chars / _CHARS_PER_TOKEN + self._lengths.mean)
        return await self._desk.acquire(tokens, self._most(request), avoid)

    def _most(self, request: ChatRequest) -> float:
        """The most that a request can cost, USD."""
        if self._prices is None:
            return 0.0
        prompt = round(total_chars(request.messages) / _WORST_CHARS_PER_TOKEN)
        return self._prices.cost(prompt, request.max_tokens)

    def _likely_cost(self, request: ChatRequest) -> float:
        """Charged for a request that was given up: the provider may bill it."""
        if self._prices is None:
            return 0.0
        prompt = round(total_chars(request.messages) / _CHARS_PER_TOKEN)
        return self._prices.cost(prompt, round(self._lengths.mean))

    async def _send(self, request: ChatRequest, lease: Lease, tally: _Tally) -> ChatReply:
        """Send one request and report its outcome, whatever it is."""
        tally.add(JudgeUsage(calls=1))
        began = time.perf_counter()
        try:
            reply = await self._clients[lease.endpoint].complete(request)
        except ChatError as err:
            tally.failed_at = lease.endpoint
            self._report(lease, _kind_of(err), began, retry_after_s=err.retry_after_s)
            raise
        except asyncio.CancelledError:
            cost = self._likely_cost(request)
            tally.add(JudgeUsage(cost_usd=cost))
            self._report(lease, "cancelled", began, cost_usd=cost)
            raise
        return self._accepted(reply, lease, tally, began)

    def _accepted(self, reply: ChatReply, lease: Lease, tally: _Tally, began: float) -> ChatReply:
        """The reply, unless another model than the run's judge gave it."""
        cost = 0.0
        if self._prices is not None:
            cost = self._prices.cost(reply.prompt_tokens, reply.completion_tokens)
        tally.add(
            JudgeUsage(
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                cost_usd=cost,
            )
        )
        self._lengths.add(reply.completion_tokens)
        tokens = reply.prompt_tokens + reply.completion_tokens
        wrong = bool(self._served_model and reply.model and reply.model != self._served_model)
        self._report(lease, "wrong_judge" if wrong else "ok", began, tokens=tokens, cost_usd=cost)
        if wrong:
            tally.failed_at = lease.endpoint
            raise ChatError(
                FailureCause.WRONG_JUDGE,
                f"{lease.endpoint} answered as {reply.model!r}, the judge of this run is "
                f"{self._served_model!r}",
            )
        return reply

    def _report(
        self,
        lease: Lease,
        kind: OutcomeKind,
        began: float,
        *,
        tokens: int = 0,
        cost_usd: float = 0.0,
        retry_after_s: float | None = None,
    ) -> None:
        self._desk.report(
            Outcome(
                lease_id=lease.lease_id,
                kind=kind,
                latency_s=time.perf_counter() - began,
                tokens=tokens,
                cost_usd=cost_usd,
                retry_after_s=retry_after_s,
            )
        )


def _kind_of(err: ChatError) -> OutcomeKind:
    if err.status in _ENDPOINT_STATUSES:
        return "failed"
    return _OUTCOMES.get(err.cause, "failed")


async def _cancelled(task: asyncio.Task[ChatReply]) -> None:
    """End a task and see it end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
