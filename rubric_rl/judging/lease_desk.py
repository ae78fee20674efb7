"""Where the calls of one worker get their leases: many wishes, few messages.

    acquire:  waits for:    a lease or a refusal
              unblocked by: the exchange task
    exchange: consumes wishes and outcomes, produces leases
              waits for:    the dispatcher, at most about a second
              unblocked by: a new wish or outcome, which starts a newer exchange at once

A newer exchange makes the dispatcher end the older one, so at most two are out.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from rubric_rl.errors import RubricRLError
from rubric_rl.judging.chat import ChatError
from rubric_rl.judging.leases import (
    LEASE_USE_S,
    Dispatcher,
    Grants,
    Lease,
    LeaseRequest,
    Outcome,
)
from rubric_rl.types import FailureCause

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 5.0
_MAX_FAILURES = 10
"""Exchanges in a row that may fail before those who wait are told: about half a minute."""


@dataclass(slots=True)
class _Wish:
    request: LeaseRequest
    granted: asyncio.Future[tuple[Lease, float]]
    """The lease and when it came."""


class LeaseDesk:
    """Gets leases from a dispatcher for the calls of one event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        client: str,
        account: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._client = client
        self._account = account
        self._now = now
        self._ids = itertools.count(1)
        self._wishes: dict[int, _Wish] = {}
        self._outcomes: list[Outcome] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._exchanges: set[asyncio.Task[None]] = set()
        self._failures = 0

    async def acquire(self, tokens: int, cost_usd: float, avoid: str | None) -> Lease:
        """Wait for the right to send one request.

        Raises:
            ChatError: it is refused, or the dispatcher is out of reach.
        """
        while True:
            lease, came_at = await self._wish(tokens, cost_usd, avoid)
            # A busy event loop can hand it on late; the limits count on its use in time.
            if self._now() - came_at < LEASE_USE_S:
                return lease
            self.report(Outcome(lease_id=lease.lease_id, kind="unused"))

    def report(self, outcome: Outcome) -> None:
        """Say what came of a lease; returns at once."""
        self._outcomes.append(outcome)
        self._start()
        self._news.set()

    async def close(self) -> None:
        """Report what is left to report, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, *self._exchanges, return_exceptions=True)
            self._task = None
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            await self._dispatcher.exchange(self._client, outcomes, ())

    # ------------------------------------------------------------------------

    async def _wish(self, tokens: int, cost_usd: float, avoid: str | None) -> tuple[Lease, float]:
        request = LeaseRequest(
            request_id=next(self._ids),
            tokens=tokens,
            cost_usd=cost_usd,
            avoid=avoid,
            account=self._account,
        )
        wish = _Wish(request, asyncio.get_running_loop().create_future())
        self._wishes[request.request_id] = wish
        self._start()
        self._news.set()
        try:
            return await wish.granted
        except asyncio.CancelledError:
            self._give_back(wish)
            raise
        finally:
            self._wishes.pop(request.request_id, None)

    def _give_back(self, wish: _Wish) -> None:
        granted = wish.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self.report(Outcome(lease_id=granted.result()[0].lease_id, kind="unused"))

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            # Whatever else is ready in this turn of the loop goes into the same message.
            await asyncio.sleep(0)
            outcomes, self._outcomes = self._outcomes, []
            exchange = asyncio.create_task(self._exchange(outcomes))
            self._exchanges.add(exchange)
            exchange.add_done_callback(self._exchanges.discard)

    async def _exchange(self, outcomes: list[Outcome]) -> None:
        wanted = [wish.request for wish in self._wishes.values() if not wish.granted.done()]
        try:
            grants = await self._dispatcher.exchange(self._client, outcomes, wanted)
        except RubricRLError as err:
            await self._failed(outcomes, err)
            return
        self._failures = 0
        self._deliver(grants)
        # A poll that gave nothing, or not all: ask on, unless a newer exchange does so already.
        if self._unanswered() and len(self._exchanges) == 1:
            self._news.set()

    def _unanswered(self) -> bool:
        return any(not wish.granted.done() for wish in self._wishes.values())

    def _deliver(self, grants: Grants) -> None:
        came_at = self._now()
        for lease in grants.leases:
            wish = self._wishes.get(lease.request_id)
            if wish is None or wish.granted.done():
                self.report(Outcome(lease_id=lease.lease_id, kind="unused"))
            else:
                wish.granted.set_result((lease, came_at))
        for refusal in grants.refusals:
            wish = self._wishes.get(refusal.request_id)
            if wish is not None and not wish.granted.done():
                wish.granted.set_exception(ChatError(refusal.cause, refusal.message))

    async def _failed(self, outcomes: list[Outcome], err: RubricRLError) -> None:
        """The dispatcher's process may be starting anew: keep everything and try again."""
        self._outcomes = outcomes + self._outcomes
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            logger.warning("no leases: %s", err)
            for wish in self._wishes.values():
                if not wish.granted.done():
                    message = f"the judge budget is out of reach: {err}"
                    wish.granted.set_exception(ChatError(FailureCause.TRANSPORT, message))
            self._failures = 0
            return
        await asyncio.sleep(min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2**self._failures))
        self._news.set()
