"""Amounts in any 60 seconds, and money: the parts of the budget that only count.

A request reaches its server somewhere between the grant of its lease and the
sooner of its outcome and the end of the time in which a lease may be used. It is
counted until 60 s after that moment, so that no 60 s at the server hold more
than the limit, whenever within that time it arrived.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from rubric_rl.judging.leases import LEASE_USE_S

WINDOW_S = 60.0


@dataclass(slots=True)
class _Entry:
    amount: float
    granted_at: float
    leaves_at: float


@dataclass(slots=True)
class RateWindow:
    """What leases took of an amount that is limited per minute."""

    total: float = 0.0
    _entries: dict[int, _Entry] = field(default_factory=dict[int, _Entry])
    # May hold moments that a later outcome has moved; those are skipped.
    _queue: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def add(self, lease_id: int, amount: float, now: float) -> None:
        """Count a lease that is granted now."""
        leaves_at = now + LEASE_USE_S + WINDOW_S
        self._entries[lease_id] = _Entry(amount, now, leaves_at)
        self.total += amount
        heapq.heappush(self._queue, (leaves_at, lease_id))

    def settle(self, lease_id: int, now: float, amount: float | None = None) -> None:
        """The lease ended now; `amount` corrects its estimate."""
        entry = self._entries.get(lease_id)
        if entry is None:
            return
        if amount is not None:
            self.total += amount - entry.amount
            entry.amount = amount
        entry.leaves_at = min(now, entry.granted_at + LEASE_USE_S) + WINDOW_S
        heapq.heappush(self._queue, (entry.leaves_at, lease_id))

    def drop(self, lease_id: int) -> None:
        """The lease was never used."""
        entry = self._entries.pop(lease_id, None)
        if entry is not None:
            self.total -= entry.amount

    def expire(self, now: float) -> None:
        """Let go of what is older than the window."""
        while self._queue and self._queue[0][0] <= now:
            leaves_at, lease_id = heapq.heappop(self._queue)
            entry = self._entries.get(lease_id)
            if entry is not None and entry.leaves_at == leaves_at:
                del self._entries[lease_id]
                self.total -= entry.amount

    def next_in(self, now: float) -> float | None:
        """Seconds until something leaves the window; None if it is empty."""
        while self._queue:
            leaves_at, lease_id = self._queue[0]
            entry = self._entries.get(lease_id)
            if entry is not None and entry.leaves_at == leaves_at:
                return max(0.0, leaves_at - now)
            heapq.heappop(self._queue)
        return None

    def ages(self, now: float) -> list[tuple[float, float]]:
        """Seconds until it leaves, and amount, of everything counted: for a checkpoint."""
        return [(e.leaves_at - now, e.amount) for e in self._entries.values()]

    def restore(self, ages: list[tuple[float, float]], first_id: int, now: float) -> None:
        """Count again what `ages` gave; ids are `first_id` and below, away from real leases."""
        for offset, (seconds, amount) in enumerate(ages):
            if seconds > 0:
                lease_id = first_id - offset
                self._entries[lease_id] = _Entry(amount, now, now + seconds)
                self.total += amount
                heapq.heappush(self._queue, (now + seconds, lease_id))


@dataclass(slots=True)
class Account:
    """The money of one run."""

    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    """The most that requests still out can cost."""

    def allows(self, cost_usd: float, max_cost_usd: float | None) -> bool:
        if max_cost_usd is None:
            return True
        return self.spent_usd + self.reserved_usd + cost_usd <= max_cost_usd * (1 + 1e-9)

    def can_ever_allow(self, cost_usd: float, max_cost_usd: float | None) -> bool:
        """Whether it would be allowed if nothing that is out cost anything."""
        if max_cost_usd is None:
            return True
        return self.spent_usd + cost_usd <= max_cost_usd * (1 + 1e-9)

    def reserve(self, cost_usd: float) -> None:
        self.reserved_usd += cost_usd

    def settle(self, reserved_usd: float, cost_usd: float) -> None:
        self.reserved_usd = max(0.0, self.reserved_usd - reserved_usd)
        self.spent_usd += cost_usd
