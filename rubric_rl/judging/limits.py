"""Amounts in any 60 seconds, requests out at once, and money: the parts that only count.

A request reaches its server somewhere between the grant of its lease and the
sooner of its outcome and the end of the time in which a lease may be used. It is
counted until 60 s after that moment, so that no 60 s at the server hold more
than the limit, whenever within that time it arrived.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.leases import LEASE_USE_S, LeaseRequest, Refusal
from rubric_rl.types import FailureCause

WINDOW_S = 60.0

ON_RATE_LIMIT = 0.7
"""Factor of the concurrency limit at a 429: gentler than TCP's halving, since a round trip
full of 429s is answered once and the way back up takes a round trip for each request."""
ON_SLOWNESS = 0.9
"""Factor of the concurrency limit when an endpoint slows down, which loses no request."""

# Counts leave a restored window in steps of this many seconds, to keep checkpoints small.
_BUCKET_S = 1.0

WindowState = list[tuple[float, int, int]]
"""Seconds until they leave the window, requests, tokens."""


# ----------------------------------------------------------------------------
# What is allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What all clients together may take: the strictest of what each of them allows."""

    max_concurrency: int
    adaptive: bool
    requests_per_minute: float
    """math.inf: no limit."""
    tokens_per_minute: float
    """math.inf: no limit."""
    health: JudgeHealthConfig
    """`hedge` is each client's own choice and not meant here."""


def strictest(budgets: Sequence[JudgeBudgetConfig], healths: Sequence[JudgeHealthConfig]) -> Limits:
    """The limits that keep every client's; both are of the same clients, at least one."""
    return Limits(
        max_concurrency=min(budget.max_concurrency for budget in budgets),
        adaptive=any(budget.adaptive for budget in budgets),
        requests_per_minute=_least(budget.requests_per_minute for budget in budgets),
        tokens_per_minute=_least(budget.tokens_per_minute for budget in budgets),
        health=JudgeHealthConfig(
            failures_to_open=min(health.failures_to_open for health in healths),
            open_s=max(health.open_s for health in healths),
            max_open_s=max(health.max_open_s for health in healths),
        ),
    )


def _least(limits: Iterable[float | None]) -> float:
    return min((limit for limit in limits if limit is not None), default=math.inf)


# ----------------------------------------------------------------------------
# Rates


@dataclass(slots=True)
class _Entry:
    """Requests that leave the window together; one, unless they are restored."""

    num_requests: int
    tokens: int
    granted_at: float
    leaves_at: float
    is_gone: bool = False


@dataclass(slots=True)
class RateWindow:
    """Requests and tokens that count against the limits per minute."""

    num_requests: int = 0
    tokens: int = 0
    _by_lease: dict[int, _Entry] = field(default_factory=dict[int, _Entry])
    # Three queues, each in the order in which its entries leave: those settled early leave
    # in the order of their outcomes, all others in that of their grants. An entry settled
    # early is in two; whichever gives it up first marks it as gone.
    _by_grant: deque[_Entry] = field(default_factory=deque[_Entry])
    _by_outcome: deque[_Entry] = field(default_factory=deque[_Entry])
    _restored: deque[_Entry] = field(default_factory=deque[_Entry])

    def add(self, lease_id: int, tokens: int, now: float) -> None:
        """Count a lease that is granted now, with its estimate of tokens."""
        entry = _Entry(1, tokens, now, now + LEASE_USE_S + WINDOW_S)
        self._by_lease[lease_id] = entry
        self._by_grant.append(entry)
        self.num_requests += 1
        self.tokens += tokens

    def settle(self, lease_id: int, now: float, tokens: int | None = None) -> None:
        """The lease ended now; `tokens` corrects its estimate."""
        entry = self._by_lease.pop(lease_id, None)
        if entry is None or entry.is_gone:
            return
        if tokens is not None:
            self.tokens += tokens - entry.tokens
            entry.tokens = tokens
        if now < entry.granted_at + LEASE_USE_S:
            entry.leaves_at = now + WINDOW_S
            self._by_outcome.append(entry)

    def drop(self, lease_id: int) -> None:
        """The lease was never used."""
        entry = self._by_lease.pop(lease_id, None)
        if entry is not None:
            self._leave(entry)

    def expire(self, now: float) -> None:
        """Let go of what is older than the window."""
        for queue in self._queues():
            while queue and (queue[0].is_gone or queue[0].leaves_at <= now):
                self._leave(queue.popleft())

    def next_in(self, now: float) -> float | None:
        """Seconds until something leaves the window; None if it is empty. After `expire`."""
        heads = [queue[0].leaves_at for queue in self._queues() if queue]
        return min(heads) - now if heads else None

    def state(self, now: float) -> WindowState:
        """What is counted, for a checkpoint, rounded to the safe side."""
        buckets: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        # An entry in two queues counts in the one that it leaves by.
        for entry in {id(e): e for queue in self._queues() for e in queue}.values():
            if not entry.is_gone:
                bucket = buckets[math.ceil((entry.leaves_at - now) / _BUCKET_S)]
                bucket[0] += entry.num_requests
                bucket[1] += entry.tokens
        return [
            (index * _BUCKET_S, requests, tokens)
            for index, (requests, tokens) in sorted(buckets.items())
        ]

    def restore(self, state: WindowState, now: float) -> None:
        """Count also what another window held."""
        entries = [_Entry(requests, tokens, now, now + age) for age, requests, tokens in state]
        self.num_requests += sum(entry.num_requests for entry in entries)
        self.tokens += sum(entry.tokens for entry in entries)
        self._restored = deque(sorted([*self._restored, *entries], key=lambda e: e.leaves_at))

    def _queues(self) -> tuple[deque[_Entry], ...]:
        return self._by_grant, self._by_outcome, self._restored

    def _leave(self, entry: _Entry) -> None:
        if not entry.is_gone:
            entry.is_gone = True
            self.num_requests -= entry.num_requests
            self.tokens -= entry.tokens


# ----------------------------------------------------------------------------
# Concurrency


@dataclass(slots=True)
class ConcurrencyLimit:
    """Requests that one endpoint may have out: additive increase, multiplicative decrease."""

    ceiling: int
    value: float = 0.0
    """Starts at the ceiling."""
    _decreased_at: float = -math.inf

    def __post_init__(self) -> None:
        self.value = self.value or float(self.ceiling)

    @property
    def whole(self) -> int:
        return max(1, int(self.value))

    def set_ceiling(self, ceiling: int) -> None:
        """A limit that nothing has lowered moves with the ceiling."""
        is_untouched = self.value == self.ceiling
        self.ceiling = ceiling
        self.value = float(ceiling) if is_untouched else min(self.value, float(ceiling))

    def succeeded(self) -> None:
        """One of `value` requests out came back well: a round trip of them adds one."""
        self.value = min(float(self.ceiling), self.value + 1 / max(1.0, self.value))

    def was_rate_limited(self, granted_at: float, now: float, in_use: float) -> None:
        """`in_use` is the load that met the 429: a limit far above it must come down to it."""
        self._decrease(ON_RATE_LIMIT, granted_at, now, min(self.value, in_use))

    def slowed_down(self, granted_at: float, now: float) -> None:
        self._decrease(ON_SLOWNESS, granted_at, now, self.value)

    def _decrease(self, factor: float, granted_at: float, now: float, base: float) -> None:
        # Requests that were out when the limit was lowered tell nothing of the new one, so
        # that it comes down once a round trip.
        if granted_at > self._decreased_at:
            self.value = max(1.0, base * factor)
            self._decreased_at = now


# ----------------------------------------------------------------------------
# Money


@dataclass(slots=True)
class Account:
    """The money of one run."""

    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    """The most that requests still out can cost."""
    _num_reserved: int = 0

    def allows(self, cost_usd: float, max_cost_usd: float | None) -> bool:
        return _within(self.spent_usd + self.reserved_usd + cost_usd, max_cost_usd)

    def can_ever_allow(self, cost_usd: float, max_cost_usd: float | None) -> bool:
        """Whether it would be allowed if nothing that is out cost anything."""
        return _within(self.spent_usd + cost_usd, max_cost_usd)

    def reserve(self, cost_usd: float) -> None:
        self.reserved_usd += cost_usd
        self._num_reserved += 1

    def settle(self, reserved_usd: float, cost_usd: float) -> None:
        self._num_reserved -= 1
        # Rounding errors must not add up over a long run.
        self.reserved_usd = self.reserved_usd - reserved_usd if self._num_reserved else 0.0
        self.spent_usd += cost_usd

    def correct(self, charged_usd: float, cost_usd: float) -> None:
        """A cost that was estimated turns out to be another."""
        self.spent_usd = max(0.0, self.spent_usd + cost_usd - charged_usd)


def _within(cost_usd: float, max_cost_usd: float | None) -> bool:
    """Up to rounding: sums of floats that should be equal to the limit may exceed it."""
    return max_cost_usd is None or cost_usd <= max_cost_usd * (1 + 1e-9)


# ----------------------------------------------------------------------------
# What can never be granted


def refusal(
    request: LeaseRequest, account: Account, max_cost_usd: float | None, tokens_per_minute: float
) -> Refusal | None:
    """In words, of a request that would wait for ever; None if it would not."""
    if request.tokens > tokens_per_minute:
        cause, message = FailureCause.REFUSED_REQUEST, _too_large(request, tokens_per_minute)
    elif max_cost_usd is not None and not account.can_ever_allow(request.cost_usd, max_cost_usd):
        # What is reserved may cost less in the end: then it is worth waiting for.
        cause, message = FailureCause.BUDGET, _too_dear(request, account, max_cost_usd)
    else:
        return None
    return Refusal(request_id=request.request_id, cause=cause, message=message)


def _too_large(request: LeaseRequest, tokens_per_minute: float) -> str:
    return (
        f"one request of about {request.tokens} tokens is more than "
        f"judge.budget.tokens_per_minute={tokens_per_minute:.0f}: raise it, or use "
        "judge.llm.mode=chunk or a smaller judge.llm.max_reply_tokens"
    )


def _too_dear(request: LeaseRequest, account: Account, max_cost_usd: float) -> str:
    return (
        f"a request that may cost {request.cost_usd:.4f} USD would exceed "
        f"judge.budget.max_cost_usd={max_cost_usd:g}: {account.spent_usd:.4f} USD are spent"
    )
