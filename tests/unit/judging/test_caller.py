"""A call with all that it takes: retries, failover, hedges, deadline, and a true account of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig, LlmJudgeConfig
from rubric_rl.errors import WorkerDiedError
from rubric_rl.judging.async_dispatcher import AsyncDispatcher
from rubric_rl.judging.caller import PooledCaller
from rubric_rl.judging.chat import CallResult, ChatError, ChatReply, ChatRequest
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.lease_desk import LeaseDesk
from rubric_rl.judging.leases import Grants, Lease, LeaseRequest, Outcome
from rubric_rl.judging.model_table import Prices
from rubric_rl.types import FailureCause, Message

A, B = "http://a/v1", "http://b/v1"
REQUEST = ChatRequest(
    messages=(Message(role="user", content="x" * 35),), contract="text", schema=None, max_tokens=20
)
REPLY = ChatReply(
    text="ok", finish_reason="stop", prompt_tokens=100, completion_tokens=10, model="m"
)
PRICES = Prices(prompt=1e6, completion=2e6)  # a dollar a prompt token, two a reply token

Answer = Callable[[], Awaitable[ChatReply]]


def reply(after: float = 0.0, model: str = "m") -> Answer:
    async def answer() -> ChatReply:
        await asyncio.sleep(after)
        return ChatReply(
            text=f"from {model}",
            finish_reason="stop",
            prompt_tokens=100,
            completion_tokens=10,
            model=model,
        )

    return answer


def failure(cause: FailureCause, status: int | None = None) -> Answer:
    async def answer() -> ChatReply:
        raise ChatError(cause, f"{cause} it is", status)

    return answer


async def never() -> ChatReply:
    await asyncio.Event().wait()
    raise AssertionError


@dataclass
class Client:
    """Answers by a script, then well; notes what came of each request."""

    script: list[Answer] = field(default_factory=list)
    sent: int = 0
    cancelled: int = 0

    async def complete(self, _request: ChatRequest) -> ChatReply:
        self.sent += 1
        answer = self.script.pop(0) if self.script else reply()
        try:
            return await answer()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def close(self) -> None: ...


@dataclass
class Stack:
    """A caller over clients A and B, with what its dispatcher thinks of it all."""

    caller: PooledCaller
    dispatch: Dispatch
    waits: list[float]


def stack(
    clients: dict[str, Client],
    *,
    max_retries: int = 4,
    prices: Prices | None = None,
    hedge: bool = True,
    dispatcher: object = None,
    **budget: object,
) -> Stack:
    config = LlmJudgeConfig(base_url=A, model="m", max_retries=max_retries, max_reply_tokens=40)
    limits = JudgeBudgetConfig.model_validate(budget)
    dispatch = Dispatch(now=time.monotonic)
    dispatch.join(
        "w",
        budget=limits,
        health=JudgeHealthConfig(open_s=0.02, hedge=hedge),
        account="run",
        endpoints=list(clients),
        lease_timeout_s=60.0,
    )
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    desk = LeaseDesk(dispatcher or AsyncDispatcher(dispatch), client="w", account="run")
    caller = PooledCaller(
        desk,
        clients,
        config,
        limits,
        served_model="m",
        prices=prices,
        sleep=sleep,
        jitter=lambda: 0.5,
    )
    return Stack(caller=caller, dispatch=dispatch, waits=waits)


def call(parts: Stack, times: int = 1) -> list[CallResult]:
    async def run() -> list[CallResult]:
        results = list(await asyncio.gather(*(parts.caller.call(REQUEST) for _ in range(times))))
        await parts.caller.close()
        return results

    return asyncio.run(run())


def test_a_call_that_goes_well_takes_one_request() -> None:
    parts = stack({A: Client()}, prices=PRICES)
    [result] = call(parts)
    assert result.reply is not None
    usage = result.usage
    assert (usage.calls, usage.retries, usage.hedges) == (1, 0, 0)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cost_usd) == (100, 10, 120.0)
    snapshot = parts.dispatch.snapshot("run")
    assert (snapshot.spent_usd, snapshot.in_flight) == (120.0, 0)


@pytest.mark.parametrize(
    "cause", [FailureCause.RATE_LIMITED, FailureCause.TRANSPORT, FailureCause.TIMEOUT]
)
def test_a_passing_failure_is_retried_at_another_endpoint_after_a_growing_wait(
    cause: FailureCause,
) -> None:
    clients = {A: Client([failure(cause)] * 2), B: Client([failure(cause)])}
    parts = stack(clients)
    [result] = call(parts)
    assert result.reply is not None
    assert (result.usage.calls, result.usage.retries) == (4, 3)
    assert (clients[A].sent, clients[B].sent) == (2, 2)  # never the same twice in a row
    assert parts.waits == [0.25, 0.5, 1.0]


def test_a_request_at_fault_is_not_retried() -> None:
    clients = {A: Client([failure(FailureCause.REFUSED_REQUEST, 400)]), B: Client()}
    [result] = call(stack(clients))
    assert result.error is not None
    assert (result.error.cause, result.usage.calls) == (FailureCause.REFUSED_REQUEST, 1)


def test_a_key_that_one_endpoint_refuses_is_tried_at_the_other() -> None:
    clients = {A: Client([failure(FailureCause.REFUSED_REQUEST, 401)]), B: Client()}
    [result] = call(stack(clients))
    assert result.reply is not None
    assert (result.usage.calls, result.usage.retries) == (2, 1)


def test_retries_end_and_the_last_error_is_told() -> None:
    parts = stack({A: Client([failure(FailureCause.TRANSPORT, 500)] * 9)}, max_retries=2)
    [result] = call(parts)
    assert result.error is not None
    assert (result.error.cause, result.error.status) == (FailureCause.TRANSPORT, 500)
    assert (result.usage.calls, result.usage.retries) == (3, 2)


def test_another_models_reply_is_never_used_and_its_tokens_are_counted() -> None:
    clients = {A: Client([reply(model="impostor")]), B: Client()}
    parts = stack(clients, prices=PRICES)
    [result] = call(parts)
    assert result.reply is not None
    assert result.reply.text == "from m"
    assert (result.usage.prompt_tokens, result.usage.cost_usd) == (200, 240.0)
    assert parts.dispatch.snapshot("run").endpoints[A] == "open (wrong model)"


def test_the_deadline_ends_a_call_with_the_most_telling_cause() -> None:
    silent = stack({A: Client([never])}, deadline_s=0.1)
    [result] = call(silent)
    assert result.error is not None
    assert result.error.cause is FailureCause.TIMEOUT
    assert silent.dispatch.snapshot("run").in_flight == 0
    busy = stack({A: Client([failure(FailureCause.RATE_LIMITED, 429), never])}, deadline_s=0.1)
    [result] = call(busy)
    assert result.error is not None
    assert result.error.cause is FailureCause.RATE_LIMITED


def test_a_call_beyond_the_money_is_not_sent() -> None:
    client = Client()
    parts = stack({A: client}, prices=PRICES, max_cost_usd=74.0)  # 35 + 2 x 20 at the most
    [result] = call(parts)
    assert result.error is not None
    assert result.error.cause is FailureCause.BUDGET
    assert (client.sent, result.usage.calls) == (0, 0)


# ----------------------------------------------------------------------------
# Hedges


def warm(clients: dict[str, Client], **values: object) -> Stack:
    """A stack that knows how long requests usually take: nearly no time."""
    parts = stack(clients, **values)
    for endpoint in parts.dispatch._endpoints.values():
        for _ in range(30):
            endpoint.succeeded(0.01, adaptive=True)
    return parts


def test_a_late_request_is_sent_a_second_time_and_the_first_reply_counts() -> None:
    clients = {A: Client([never]), B: Client()}
    parts = warm(clients, prices=PRICES)
    [result] = call(parts)
    assert result.reply is not None
    assert (result.usage.calls, result.usage.hedges, result.usage.retries) == (2, 1, 0)
    assert (clients[A].cancelled, clients[B].sent) == (1, 1)
    # 120 for the reply; of the other what it may be billed: 35 / 3.5 tokens and 10 of reply.
    assert result.usage.cost_usd == pytest.approx(120.0 + 10 + 2 * 10)
    assert parts.dispatch.snapshot("run").spent_usd == pytest.approx(result.usage.cost_usd)


def test_the_first_request_may_still_win() -> None:
    clients = {A: Client([reply(after=0.1)]), B: Client([never])}
    [result] = call(warm(clients))
    assert result.reply is not None
    assert (result.usage.calls, result.usage.hedges, clients[B].cancelled) == (2, 1, 1)


def test_two_that_fail_are_one_failed_attempt() -> None:
    async def late_failure() -> ChatReply:
        await asyncio.sleep(0.1)
        raise ChatError(FailureCause.TRANSPORT, "late")

    clients = {A: Client([late_failure]), B: Client([failure(FailureCause.TRANSPORT)])}
    [result] = call(warm(clients))
    assert result.reply is not None
    assert (result.usage.calls, result.usage.hedges, result.usage.retries) == (3, 1, 1)


def test_a_failure_before_the_second_is_sent_is_a_retry_and_no_hedge() -> None:
    async def late_failure() -> ChatReply:
        await asyncio.sleep(0.1)
        raise ChatError(FailureCause.TRANSPORT, "late")

    clients = {A: Client([late_failure]), B: Client()}
    # The second one's lease is not to be had while the first is out.
    parts = warm(clients, max_concurrency=1)
    [result] = call(parts)
    assert result.reply is not None
    assert (result.usage.calls, result.usage.hedges, result.usage.retries) == (2, 0, 1)
    assert len(parts.waits) == 1


def test_hedging_can_be_turned_off() -> None:
    clients = {A: Client([reply(after=0.1)]), B: Client()}
    [result] = call(warm(clients, hedge=False))
    assert (result.usage.calls, clients[B].sent) == (1, 0)


# ----------------------------------------------------------------------------
# Cancelling, crowds, a dispatcher that fails


def test_a_cancelled_call_gives_everything_back() -> None:
    parts = stack({A: Client([never, never])}, max_concurrency=1)

    async def run() -> None:
        calls = [asyncio.create_task(parts.caller.call(REQUEST)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert parts.dispatch.snapshot("run").in_flight == 1
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await parts.caller.close()

    asyncio.run(run())
    assert parts.dispatch.snapshot("run").in_flight == 0


@pytest.mark.parametrize("hedge", [True, False])
def test_a_call_cancelled_at_any_moment_leaves_no_lease_behind(hedge: bool) -> None:
    async def cancelled_after(turns: int) -> int:
        parts = warm({A: Client([never] * 2), B: Client([never] * 2)}, hedge=hedge)
        task = asyncio.create_task(parts.caller.call(REQUEST))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.caller.close()
        return parts.dispatch.snapshot("run").in_flight

    assert [asyncio.run(cancelled_after(turns)) for turns in range(25)] == [0] * 25


def test_a_crowd_is_served_within_the_limit_and_accounted_for_exactly() -> None:
    most, now = 0, 0

    class Counting(Client):
        async def complete(self, request: ChatRequest) -> ChatReply:
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                await asyncio.sleep(0.001)
                return await super().complete(request)
            finally:
                now -= 1

    clients: dict[str, Client] = {A: Counting(), B: Counting()}
    parts = stack(clients, prices=PRICES, max_concurrency=64, hedge=False)
    began = time.perf_counter()
    results = call(parts, times=2000)
    assert time.perf_counter() - began < 30.0
    assert all(result.reply is not None for result in results)
    assert most <= 64
    assert sum(result.usage.calls for result in results) == 2000
    assert sum(client.sent for client in clients.values()) == 2000
    assert parts.dispatch.snapshot("run").spent_usd == pytest.approx(2000 * 120.0)


class Failing:
    """A dispatcher that is away for the first exchanges."""

    def __init__(self, failures: int, inner: AsyncDispatcher | None = None) -> None:
        self.failures = failures
        self.inner = inner
        self.outcomes: list[Outcome] = []

    async def exchange(
        self, client: str, outcomes: list[Outcome], wanted: list[LeaseRequest]
    ) -> Grants:
        if self.failures:
            self.failures -= 1
            raise WorkerDiedError("not there")
        self.outcomes += outcomes
        return Grants(
            leases=tuple(
                Lease(
                    lease_id=r.request_id, request_id=r.request_id, endpoint=A, hedge_after_s=None
                )
                for r in wanted
            )
        )


def test_a_dispatcher_that_comes_back_loses_no_call_and_no_outcome() -> None:
    dispatcher = Failing(2)
    [result] = call(stack({A: Client()}, dispatcher=dispatcher))
    assert result.reply is not None
    assert [outcome.kind for outcome in dispatcher.outcomes] == ["ok"]


def test_a_lease_that_came_too_late_to_use_is_given_back_and_asked_for_again() -> None:
    dispatcher, clock = Failing(0), iter([0.0, 6.0, 6.0, 6.0, 6.0, 6.0])

    async def run() -> Lease:
        desk = LeaseDesk(dispatcher, client="w", account="run", now=clock.__next__)
        lease = await desk.acquire(1, 0.0, None)
        await desk.close()
        return lease

    assert asyncio.run(run()).lease_id == 2
    assert [(o.lease_id, o.kind) for o in dispatcher.outcomes] == [(1, "unused")]
