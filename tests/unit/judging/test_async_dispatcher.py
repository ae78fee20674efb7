"""The budget on an event loop. Waits here are milliseconds."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging import async_dispatcher
from rubric_rl.judging.async_dispatcher import AsyncDispatcher
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.leases import Grants, Lease, LeaseRequest, Outcome, OutcomeKind

A = "http://a/v1"


class Loop:
    """An `AsyncDispatcher` with clients that are used within one event loop."""

    def __init__(self, *clients: str, **budget: object) -> None:
        self.dispatcher = AsyncDispatcher(Dispatch(now=time.monotonic))
        self.last = 0
        for client in clients:
            self.join(client, **budget)

    def join(self, client: str, **budget: object) -> None:
        self.dispatcher.join(
            client,
            budget=JudgeBudgetConfig.model_validate(budget),
            health=JudgeHealthConfig(),
            account="run",
            endpoints=[A],
            lease_timeout_s=60.0,
        )

    def wishes(self, count: int) -> list[LeaseRequest]:
        self.last += count
        first = self.last - count + 1
        return [
            LeaseRequest(request_id=i, tokens=1, cost_usd=0.0) for i in range(first, first + count)
        ]

    def ask(self, client: str, count: int = 1) -> asyncio.Task[Grants]:
        return asyncio.create_task(self.dispatcher.exchange(client, (), self.wishes(count)))

    async def end(
        self, client: str, *leases: Lease, kind: OutcomeKind = "ok", **fields: float
    ) -> None:
        outcomes = [Outcome(lease_id=lease.lease_id, kind=kind, **fields) for lease in leases]
        await self.dispatcher.exchange(client, outcomes, ())

    @property
    def in_flight(self) -> int:
        return self.dispatcher.snapshot("run").in_flight


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 10.0))


async def turns(count: int = 5) -> None:
    """Let the event loop do what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_wait_ends_as_soon_as_another_client_reports() -> None:
    async def claim() -> None:
        loop = Loop("w", "v", max_concurrency=1)
        [lease] = (await loop.ask("w")).leases
        waiting = loop.ask("v")
        await turns()
        assert not waiting.done()
        await loop.end("w", lease)
        await turns()
        assert len(waiting.result().leases) == 1

    run(claim())


def test_only_reports_that_leave_room_wake_those_who_wait() -> None:
    async def claim() -> None:
        loop = Loop("w", "v", max_concurrency=2)
        first, second = (await loop.ask("w", 2)).leases
        waiting = loop.ask("v", 3)
        await turns()
        await loop.end("w", first)
        await turns()
        assert len(waiting.result().leases) == 1
        late = loop.ask("v", 3)
        await turns()
        assert not late.done()
        await loop.end("w", second)
        await turns()
        assert len(late.result().leases) == 1

    run(claim())


def test_a_wait_ends_when_time_makes_room() -> None:
    async def claim() -> None:
        loop = Loop("w", max_concurrency=4)
        [lease] = (await loop.ask("w")).leases
        await loop.end("w", lease, kind="rate_limited", retry_after_s=0.02)
        began = time.monotonic()
        grants = await loop.ask("w")
        assert len(grants.leases) == 1
        assert 0.015 <= time.monotonic() - began < 0.9  # not only at the end of the poll

    run(claim())


def test_a_poll_is_bounded_and_then_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_dispatcher, "LONGEST_POLL_S", 0.02)

    async def claim() -> None:
        loop = Loop("w", max_concurrency=1)
        await loop.ask("w")
        grants = await loop.ask("w")
        assert (grants.leases, grants.refusals) == ((), ())
        assert grants.next_in_s == pytest.approx(60.0, abs=0.5)  # when the lease is lost

    run(claim())


def test_who_wants_nothing_is_answered_at_once() -> None:
    async def claim() -> None:
        loop = Loop("w", max_concurrency=1)
        await loop.ask("w")
        exchange = asyncio.create_task(loop.dispatcher.exchange("w", (), ()))
        await turns(2)
        assert exchange.result() == Grants()

    run(claim())


def test_a_refusal_ends_a_wait_like_a_grant() -> None:
    async def claim() -> None:
        loop = Loop("w", max_concurrency=1, tokens_per_minute=10)
        await loop.ask("w")
        large = LeaseRequest(request_id=99, tokens=11, cost_usd=0.0)
        grants = await loop.dispatcher.exchange("w", (), [large])
        assert [refusal.request_id for refusal in grants.refusals] == [99]

    run(claim())


def test_a_newer_exchange_of_a_client_ends_its_older_one() -> None:
    async def claim() -> None:
        loop = Loop("w", max_concurrency=1)
        [lease] = (await loop.ask("w")).leases
        older = loop.ask("w")
        await turns()
        newer = loop.ask("w")
        await turns()
        assert older.result() == Grants()
        assert not newer.done()
        await loop.end("w", lease)  # itself the newest, so that this wait ends as well
        await turns()
        assert newer.result() == Grants()

    run(claim())


def test_a_join_that_raises_the_limits_wakes_those_who_wait() -> None:
    async def claim() -> None:
        loop = Loop("w", max_concurrency=1)
        await loop.ask("w")
        waiting = loop.ask("w")
        await turns()
        loop.join("w", max_concurrency=2)
        await turns()
        assert len(waiting.result().leases) == 1

    run(claim())


@pytest.mark.parametrize("wakes_first", [False, True])
def test_a_cancelled_exchange_leaks_no_lease(wakes_first: bool) -> None:
    async def claim() -> None:
        loop = Loop("w", "v", max_concurrency=1)
        [lease] = (await loop.ask("w")).leases
        waiting = loop.ask("v")
        await turns()
        if wakes_first:  # the wait is over, and the cancellation comes before it is acted on
            await loop.end("w", lease)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert loop.in_flight == (0 if wakes_first else 1)

    run(claim())


@pytest.mark.parametrize("names", ["wvu", "wuv"])
def test_what_was_kept_for_a_cancelled_exchange_goes_to_the_others(names: str) -> None:
    async def claim() -> None:
        loop = Loop(*names, max_concurrency=1)
        await loop.end("u", *(await loop.ask("u")).leases)  # so that `v` comes before `u`
        [lease] = (await loop.ask("w")).leases
        first = loop.ask("v")
        await turns()
        second = loop.ask("u")
        await turns()
        await loop.end("w", lease)
        first.cancel()
        await turns()
        assert len(second.result().leases) == 1

    run(claim())


def test_after_many_cancellations_all_that_is_out_is_known_to_a_client() -> None:
    async def client(loop: Loop, name: str, rng: random.Random, held: list[Lease]) -> None:
        for _ in range(150):
            exchange = loop.ask(name, rng.randint(1, 4))
            for _ in range(rng.randint(0, 4)):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                exchange.cancel()
            await asyncio.wait({exchange}, timeout=0.003)
            exchange.cancel()
            await asyncio.gather(exchange, return_exceptions=True)
            if not exchange.cancelled():
                held += exchange.result().leases
            ending = rng.randint(0, 3)
            await loop.end(name, *held[:ending])
            del held[:ending]

    async def claim() -> None:
        rng, names = random.Random(3), ["a", "b", "c"]
        loop = Loop(*names, max_concurrency=6)
        held: dict[str, list[Lease]] = {name: [] for name in names}
        await asyncio.gather(*(client(loop, name, rng, held[name]) for name in names))
        assert loop.in_flight == sum(len(leases) for leases in held.values())
        for name in names:
            await loop.end(name, *held[name])
        assert loop.in_flight == 0

    run(claim())


def test_clients_that_wait_all_the_time_get_equal_shares() -> None:
    async def client(loop: Loop, name: str, counts: dict[str, int]) -> None:
        wanted, reports = loop.wishes(1000), []
        while sum(counts.values()) < 400:
            leases = (await loop.dispatcher.exchange(name, reports, wanted)).leases
            granted = {lease.request_id for lease in leases}
            wanted = [request for request in wanted if request.request_id not in granted]
            counts[name] += len(leases)
            await asyncio.sleep(0)
            reports = [Outcome(lease_id=lease.lease_id, kind="ok") for lease in leases]
        await loop.dispatcher.exchange(name, reports, ())

    async def claim() -> None:
        counts = dict.fromkeys("abcd", 0)
        loop = Loop(*counts, max_concurrency=3)
        await asyncio.gather(*(client(loop, name, counts) for name in counts))
        assert all(90 <= count <= 110 for count in counts.values()), counts

    run(claim())


def test_money_and_states_pass_through() -> None:
    async def claim() -> None:
        loop, other = Loop("w"), Loop("w")
        [lease] = (await loop.ask("w")).leases
        await loop.end("w", lease, cost_usd=0.25)
        other.dispatcher.restore("run", loop.dispatcher.to_json("run"))
        assert other.dispatcher.snapshot("run").spent_usd == 0.25

    run(claim())
