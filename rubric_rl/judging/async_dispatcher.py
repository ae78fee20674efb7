"""`Dispatch` on an event loop: what clients ask for is waited for, not polled for.

exchange:  waits for:    room, until about a second has passed
           unblocked by: any exchange that reports an outcome, or time (`next_in_s`)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rubric_rl.config.schema import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.dispatch import Dispatch, DispatchSnapshot
from rubric_rl.judging.leases import Grants, LeaseRequest, Outcome

LONGEST_POLL_S = 1.0


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

    async def exchange(
        self, client: str, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        """See `Dispatcher.exchange`. A cancelled call has granted nothing.

        A newer exchange of the same client ends an older one that still waits, which
        then returns nothing: what it asked for is in the newer one's wishes.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST_POLL_S
        self._wake(client)
        grants = self._dispatch.exchange(client, outcomes, wanted)
        if outcomes:
            self._wake_all()
        while wanted and not (grants.leases or grants.refusals) and loop.time() < deadline:
            # Grants are made only right before they are returned, never across this wait.
            is_newest = await self._wait(client, deadline - loop.time(), grants.next_in_s)
            if not is_newest:
                return Grants()
            grants = self._dispatch.exchange(client, (), wanted)
        return grants

    def snapshot(self, account: str) -> DispatchSnapshot:
        return self._dispatch.snapshot(account)

    def to_json(self, account: str) -> str:
        return self._dispatch.to_json(account)

    def restore(self, account: str, text: str) -> None:
        self._dispatch.restore(account, text)

    def _wake(self, client: str) -> None:
        """End the wait of this client's older exchange."""
        waiter = self._waiters.pop(client, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(False)

    def _wake_all(self) -> None:
        """Something came free: let every exchange that waits try again."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if not waiter.done():
                waiter.set_result(True)

    async def _wait(self, client: str, longest_s: float, next_in_s: float | None) -> bool:
        """False if a newer exchange of the client took over."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[client] = waiter
        seconds = longest_s if next_in_s is None else min(longest_s, next_in_s + 0.001)
        try:
            return await asyncio.wait_for(waiter, max(0.0, seconds))
        except TimeoutError:
            return True
        finally:
            if self._waiters.get(client) is waiter:
                del self._waiters[client]
