"""`Dispatch` on an event loop: what clients ask for is waited for, not polled for.

exchange:  waits for:    room, until about a second has passed
           unblocked by: any exchange that leaves room, or time (`next_in_s`)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.dispatch import Dispatch, DispatchSnapshot
from rubric_rl.judging.leases import Grants, LeaseRequest, Outcome

LONGEST_POLL_S = 1.0
# At high rates something leaves the window all the time; it is granted in lots.
_SHORTEST_WAIT_S = 0.005


class AsyncDispatcher:
    """A `Dispatcher`; every method must be called on one event loop."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._waiters: dict[str, asyncio.Future[bool]] = {}

    def join(
        self,
        client: str,
        *,
        budget: JudgeBudgetConfig,
        health: JudgeHealthConfig,
        account: str,
        endpoints: Sequence[str],
        lease_timeout_s: float,
    ) -> None:
        """See `Dispatch.join`."""
        self._dispatch.join(
            client,
            budget=budget,
            health=health,
            account=account,
            endpoints=endpoints,
            lease_timeout_s=lease_timeout_s,
        )
        self._wake_due()

    async def exchange(
        self, client: str, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        """See `Dispatcher.exchange`. A cancelled call has granted nothing.

        A newer exchange of the same client ends an older one that still waits, which
        then returns nothing: what it asked for is in the newer one's wishes.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST_POLL_S
        self._wake(client, is_newest=False)
        grants = self._dispatch.exchange(client, outcomes, wanted)
        if outcomes:
            self._wake_due()
        while wanted and not (grants.leases or grants.refusals) and loop.time() < deadline:
            # Grants are made only right before they are returned, never across this wait.
            if not await self._wait(client, deadline - loop.time(), grants.next_in_s):
                return Grants()
            grants = self._dispatch.exchange(client, (), wanted)
        return grants

    def snapshot(self, account: str) -> DispatchSnapshot:
        return self._dispatch.snapshot(account)

    def to_json(self, account: str) -> str:
        return self._dispatch.to_json(account)

    def restore(self, account: str, text: str) -> None:
        self._dispatch.restore(account, text)

    def _wake_due(self) -> None:
        """Let every exchange try again that waits and could get something now."""
        for client in self._dispatch.due():
            self._wake(client, is_newest=True)

    def _wake(self, client: str, *, is_newest: bool) -> None:
        """End this client's wait; `is_newest` is what the exchange that waits is then told."""
        waiter = self._waiters.pop(client, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(is_newest)

    async def _wait(self, client: str, longest_s: float, next_in_s: float | None) -> bool:
        """False if a newer exchange of the client took over."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters[client] = waiter
        seconds = longest_s if next_in_s is None else min(longest_s, next_in_s)
        # Not `wait_for`, which keeps a cancellation to itself if the wait ends at that moment.
        timer = loop.call_later(max(_SHORTEST_WAIT_S, seconds), self._time_is_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if self._waiters.get(client, waiter) is waiter:
                # Nobody waits here any more: what was kept free for this client is for others.
                self._dispatch.withdraw(client)
                self._wake_due()
            raise
        finally:
            timer.cancel()
            if self._waiters.get(client) is waiter:
                del self._waiters[client]

    @staticmethod
    def _time_is_up(waiter: asyncio.Future[bool]) -> None:
        if not waiter.done():
            waiter.set_result(True)
