"""The desk: few messages for many wishes, no wait that lasts for ever, no lease that is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.errors import WorkerDiedError
from rubric_rl.judging.async_dispatcher import LONGEST_POLL_S, AsyncDispatcher
from rubric_rl.judging.chat import ChatError
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.lease_desk import LeaseDesk
from rubric_rl.judging.leases import (
    LEASE_USE_S,
    Grants,
    Lease,
    LeaseRequest,
    Outcome,
    Refusal,
)
from rubric_rl.types import FailureCause

T = TypeVar("T")
Answer = Callable[[Sequence[LeaseRequest]], Awaitable[Grants]]


async def grant(wanted: Sequence[LeaseRequest]) -> Grants:
    """A lease for each wish; its id is a hundred times that of the request."""
    return Grants(
        leases=tuple(
            Lease(
                lease_id=100 * request.request_id,
                request_id=request.request_id,
                endpoint="http://a/v1",
                hedge_after_s=None,
            )
            for request in wanted
        )
    )


async def nothing(_wanted: Sequence[LeaseRequest]) -> Grants:
    return Grants()


async def hold(_wanted: Sequence[LeaseRequest]) -> Grants:
    await asyncio.Event().wait()
    raise AssertionError


def fail(error: Exception) -> Answer:
    async def answer(_wanted: Sequence[LeaseRequest]) -> Grants:
        raise error

    return answer


def after(gate: asyncio.Event, answer: Answer) -> Answer:
    async def late(wanted: Sequence[LeaseRequest]) -> Grants:
        await gate.wait()
        return await answer(wanted)

    return late


@dataclass
class FakeDispatcher:
    """Answers by its script, then as `always` says; remembers what it was told."""

    script: list[Answer] = field(default_factory=list)
    always: Answer = grant
    outcomes: list[Outcome] = field(default_factory=list)
    """Of the exchanges that got an answer."""
    wanted: list[list[int]] = field(default_factory=list)
    """Request ids, by exchange."""
    out: int = 0
    most_out: int = 0
    """Largest number of exchanges out at once."""

    async def exchange(
        self, client: str, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        assert client == "w"
        self.wanted.append([request.request_id for request in wanted])
        answer = self.script.pop(0) if self.script else self.always
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            grants = await answer(wanted)
        finally:
            self.out -= 1
        self.outcomes += outcomes
        return grants

    @property
    def reported(self) -> list[tuple[int, str]]:
        return [(outcome.lease_id, outcome.kind) for outcome in self.outcomes]


@dataclass
class Clock:
    """Time that passes in waits only."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def run(main: Coroutine[object, object, T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(main, 20.0)

    return asyncio.run(bounded())


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def desk_of(dispatcher: object, clock: Clock | None = None) -> LeaseDesk:
    clock = clock or Clock()
    return LeaseDesk(
        dispatcher, client="w", account="run", now=lambda: clock.now, sleep=clock.sleep
    )


def ok(lease_id: int) -> Outcome:
    return Outcome(lease_id=lease_id, kind="ok")


# ----------------------------------------------------------------------------
# Messages


def test_wishes_of_one_moment_travel_in_one_message() -> None:
    dispatcher = FakeDispatcher()

    async def main() -> list[Lease]:
        desk = desk_of(dispatcher)
        leases = await asyncio.gather(*(desk.acquire(1, 0.0, None) for _ in range(64)))
        await desk.close()
        return list(leases)

    assert {lease.lease_id for lease in run(main())} == {100 * i for i in range(1, 65)}
    assert dispatcher.wanted == [list(range(1, 65))]


def test_what_is_new_does_not_wait_for_a_poll_that_is_out() -> None:
    dispatcher = FakeDispatcher([hold])

    async def main() -> None:
        desk = desk_of(dispatcher)
        first = asyncio.create_task(desk.acquire(1, 0.0, None))
        await turns()
        desk.report(ok(7))
        second = asyncio.create_task(desk.acquire(1, 0.0, None))
        await turns()
        assert first.done()
        assert second.done()

    run(main())
    assert dispatcher.reported == [(7, "ok")]
    assert dispatcher.wanted == [[1], [1, 2]]  # the second message repeats the first wish


def test_never_more_than_two_messages_are_out_however_slow_they_are() -> None:
    gate = asyncio.Event()
    dispatcher = FakeDispatcher(always=after(gate, grant))

    async def main() -> None:
        desk = desk_of(dispatcher)
        for lease_id in range(50):
            desk.report(ok(lease_id))
            await turns(3)
        assert dispatcher.out == 2
        gate.set()
        await turns()
        assert dispatcher.reported == [(lease_id, "ok") for lease_id in range(50)]
        await desk.close()

    run(main())
    assert dispatcher.most_out == 2
    assert len(dispatcher.wanted) == 3  # 1, 1, and the other 48 together


def test_a_poll_that_gave_nothing_is_asked_again() -> None:
    dispatcher = FakeDispatcher([nothing, nothing])

    async def main() -> Lease:
        return await desk_of(dispatcher).acquire(1, 0.0, None)

    assert run(main()).request_id == 1
    assert dispatcher.wanted == [[1], [1], [1]]


def test_a_newer_message_that_was_overtaken_is_asked_again() -> None:
    # The older one arrives last and so ends the newer one, without knowing its wish.
    dispatcher = FakeDispatcher([hold, nothing])

    async def main() -> None:
        desk = desk_of(dispatcher)
        first = asyncio.create_task(desk.acquire(1, 0.0, None))
        await turns()
        await desk.acquire(1, 0.0, None)
        assert (await first).request_id == 1

    run(main())
    assert dispatcher.wanted == [[1], [1, 2], [1, 2]]


# ----------------------------------------------------------------------------
# Refusals, cancelling, old leases, closing


def test_a_refusal_is_an_error_with_its_cause() -> None:
    async def refuse(wanted: Sequence[LeaseRequest]) -> Grants:
        cause = FailureCause.BUDGET
        return Grants(
            refusals=tuple(
                Refusal(request_id=r.request_id, cause=cause, message="too dear") for r in wanted
            )
        )

    async def main() -> None:
        await desk_of(FakeDispatcher([refuse])).acquire(1, 9.0, None)

    with pytest.raises(ChatError, match="too dear") as caught:
        run(main())
    assert caught.value.cause is FailureCause.BUDGET


def test_a_lease_that_comes_after_its_owner_left_is_given_back() -> None:
    gate = asyncio.Event()
    dispatcher = FakeDispatcher([after(gate, grant)])

    async def main() -> None:
        desk = desk_of(dispatcher)
        wish = asyncio.create_task(desk.acquire(1, 0.0, None))
        await turns()
        wish.cancel()
        await turns()
        gate.set()
        await turns()

    run(main())
    assert dispatcher.reported == [(100, "unused")]


def test_a_lease_that_came_in_the_moment_of_cancelling_is_given_back() -> None:
    wishes: list[asyncio.Task[Lease]] = []

    async def grant_and_cancel(wanted: Sequence[LeaseRequest]) -> Grants:
        # Runs after the lease is there and before its owner does.
        loop = asyncio.get_running_loop()
        loop.call_soon(wishes[0].cancel)
        return await grant(wanted)

    dispatcher = FakeDispatcher([grant_and_cancel])

    async def main() -> None:
        desk = desk_of(dispatcher)
        wishes.append(asyncio.create_task(desk.acquire(1, 0.0, None)))
        await asyncio.gather(*wishes, return_exceptions=True)
        await turns()

    run(main())
    assert wishes[0].cancelled()
    assert dispatcher.reported == [(100, "unused")]


def test_a_lease_is_used_in_time_or_asked_for_again() -> None:
    clock = Clock()

    async def grant_late(wanted: Sequence[LeaseRequest]) -> Grants:
        def pass_time() -> None:
            clock.now += LEASE_USE_S

        asyncio.get_running_loop().call_soon(pass_time)
        return await grant(wanted)

    dispatcher = FakeDispatcher([grant_late])

    async def main() -> Lease:
        desk = desk_of(dispatcher, clock)
        lease = await desk.acquire(1, 0.0, None)
        await desk.close()
        return lease

    assert run(main()).lease_id == 200
    assert dispatcher.reported == [(100, "unused")]


def test_closing_reports_what_is_left_and_lets_nobody_wait() -> None:
    dispatcher = FakeDispatcher([hold, hold])

    async def main() -> None:
        desk = LeaseDesk(dispatcher, client="w", account="run", longest_exchange_s=0.1)
        wish = asyncio.create_task(desk.acquire(1, 0.0, None))
        await turns()
        desk.report(ok(7))
        await turns()
        desk.report(ok(8))  # two messages are out: this one is still to be sent
        await desk.close()
        with pytest.raises(ChatError, match="closed"):
            await wish
        with pytest.raises(ChatError, match="closed"):
            await desk.acquire(1, 0.0, None)

    run(main())
    # The message with 7 got no answer; saying it twice does no harm, losing it would.
    assert sorted(dispatcher.reported) == [(7, "ok"), (8, "ok")]


def test_closing_a_desk_whose_dispatcher_is_gone_ends() -> None:
    dispatcher = FakeDispatcher(always=fail(WorkerDiedError("not there")))

    async def main() -> None:
        desk = desk_of(dispatcher)
        desk.report(ok(7))
        await desk.close()

    run(main())
    assert dispatcher.outcomes == []


# ----------------------------------------------------------------------------
# A dispatcher that fails


def test_outcomes_survive_a_dispatcher_that_dies_and_comes_back() -> None:
    clock = Clock()
    dispatcher = FakeDispatcher([fail(WorkerDiedError("not there"))] * 3)

    async def main() -> None:
        desk = desk_of(dispatcher, clock)
        desk.report(ok(1))
        await desk.acquire(1, 0.0, None)
        desk.report(ok(2))
        await turns()
        assert dispatcher.reported == [(1, "ok"), (2, "ok")]
        await desk.close()

    run(main())
    assert clock.waits == [0.2, 0.4, 0.8]


def test_a_lease_whose_message_was_lost_is_asked_for_anew() -> None:
    """The dispatcher has granted the request already and would not answer it again."""

    async def grant_only_new(wanted: Sequence[LeaseRequest]) -> Grants:
        return await grant([r for r in wanted if r.request_id > 1])

    lost = fail(WorkerDiedError("the connection broke after the grant"))
    dispatcher = FakeDispatcher([lost], always=grant_only_new)

    async def main() -> Lease:
        return await desk_of(dispatcher).acquire(1, 0.0, None)

    assert run(main()).request_id == 2


def test_those_who_wait_are_told_after_half_a_minute_without_a_dispatcher() -> None:
    clock = Clock()
    dispatcher = FakeDispatcher(always=fail(WorkerDiedError("not there")))

    async def main() -> None:
        desk = desk_of(dispatcher, clock)
        wishes = [asyncio.create_task(desk.acquire(1, 0.0, None)) for _ in range(3)]
        done = await asyncio.gather(*wishes, return_exceptions=True)
        assert [type(error) for error in done] == [ChatError] * 3
        assert {error.cause for error in done} == {FailureCause.TRANSPORT}
        assert "not there" in str(done[0])
        await desk.close()

    run(main())
    assert 25.0 < clock.now < 35.0


def test_outcomes_during_an_outage_do_not_shorten_the_patience() -> None:
    clock = Clock()
    dispatcher = FakeDispatcher(always=fail(WorkerDiedError("not there")))

    async def main() -> None:
        desk = desk_of(dispatcher, clock)
        wish = asyncio.create_task(desk.acquire(1, 0.0, None))
        lease_id = 0
        while not wish.done():
            lease_id += 1
            desk.report(ok(lease_id))
            await asyncio.sleep(0)
        dispatcher.always = grant
        desk.report(ok(0))
        await turns()
        assert sorted(i for i, _ in dispatcher.reported) == list(range(lease_id + 1))
        await desk.close()

    run(main())
    assert 25.0 < clock.now < 45.0


def test_whatever_the_dispatcher_raises_is_a_failure_with_a_name() -> None:
    dispatcher = FakeDispatcher(always=fail(KeyError("w")))

    async def main() -> None:
        await desk_of(dispatcher).acquire(1, 0.0, None)

    with pytest.raises(ChatError, match="KeyError"):
        run(main())


def test_a_message_without_an_answer_is_given_up() -> None:
    dispatcher = FakeDispatcher([hold])

    async def main() -> Lease:
        desk = LeaseDesk(dispatcher, client="w", account="run", longest_exchange_s=0.02)
        lease = await desk.acquire(1, 0.0, None)
        await desk.close()
        return lease

    assert run(main()).request_id == 2
    assert dispatcher.out == 0


# ----------------------------------------------------------------------------
# With the real dispatcher


@dataclass
class Far:
    """A dispatcher whose messages take a while, as those to another node do."""

    inner: AsyncDispatcher
    way_s: float
    num_messages: int = 0
    out: int = 0
    most_out: int = 0

    async def exchange(
        self, client: str, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        self.num_messages += 1
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await asyncio.sleep(self.way_s)
            grants = await self.inner.exchange(client, outcomes, wanted)
            await asyncio.sleep(self.way_s)
            return grants
        finally:
            self.out -= 1


def dispatch_of(**budget: object) -> Dispatch:
    dispatch = Dispatch(now=time.monotonic)
    dispatch.join(
        "w",
        budget=JudgeBudgetConfig.model_validate(budget),
        health=JudgeHealthConfig(),
        account="run",
        endpoints=["http://a/v1"],
        lease_timeout_s=60.0,
    )
    return dispatch


def test_two_thousand_leases_with_64_in_flight_take_seconds_and_few_messages() -> None:
    dispatch = dispatch_of(max_concurrency=64)
    far = Far(AsyncDispatcher(dispatch), way_s=0.002)

    async def main() -> float:
        desk = LeaseDesk(far, client="w", account="run")

        async def use() -> None:
            lease = await desk.acquire(10, 0.0, None)
            assert dispatch.snapshot("run").in_flight <= 64
            await asyncio.sleep(0.01)
            desk.report(ok(lease.lease_id))

        began = time.perf_counter()
        await asyncio.gather(*(use() for _ in range(2000)))
        took, most_out = time.perf_counter() - began, far.most_out
        await desk.close()
        assert most_out <= 2
        return took

    assert run(main()) < 10.0  # about a second where nothing else runs
    assert dispatch.snapshot("run").in_flight == 0
    assert far.num_messages < 1000


def test_a_free_place_is_passed_on_long_before_a_poll_ends() -> None:
    dispatch = dispatch_of(max_concurrency=1)

    async def main() -> float:
        desk = LeaseDesk(AsyncDispatcher(dispatch), client="w", account="run")
        lease = await desk.acquire(10, 0.0, None)
        waiting = asyncio.create_task(desk.acquire(10, 0.0, None))
        await asyncio.sleep(0.02)
        began = time.perf_counter()
        desk.report(ok(lease.lease_id))
        desk.report(ok((await waiting).lease_id))
        took = time.perf_counter() - began
        await desk.close()
        return took

    assert run(main()) < LONGEST_POLL_S / 2
    assert dispatch.snapshot("run").in_flight == 0
