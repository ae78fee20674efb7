"""Who may send which request where, and when: the judge budget of the whole cluster.

One state machine for all workers. It knows every request that is out, so that
concurrency, rates and money hold over workers, runs and processes, and every
endpoint's health, so that requests go where the load is least. The clock is the
caller's; nothing here waits or talks. `AsyncDispatcher` puts it on an event loop.

A lease is granted when all of these hold:

    the account's money        spent + reserved + the most it can cost <= max_cost_usd
    requests, tokens a minute  see `limits.RateWindow`
    concurrency                all that is out < max_concurrency
    an endpoint                up, not paused, below its own limit; of those the least loaded

Several clients may set different limits; the strictest of those that were
active within the last minute count for all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rubric_rl.config.schema import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.endpoint_health import EndpointHealth
from rubric_rl.judging.leases import Grants, Lease, LeaseRequest, Outcome, Refusal
from rubric_rl.judging.limits import Account, RateWindow
from rubric_rl.types import FailureCause

ACTIVE_S = 60.0
"""A client's limits count for so long after its last exchange."""

# Leases looked at for their age in one exchange, oldest first.
_EXPIRED_AT_ONCE = 64
_REMEMBERED_ANSWERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSnapshot:
    """How the budget stands, as seen from one account."""

    spent_usd: float
    in_flight: int
    waiting: int
    concurrency_limit: int
    num_endpoints: int
    num_endpoints_up: int
    rate_limited: int
    endpoints: dict[str, str]
    """State in words, by endpoint."""


@dataclass(slots=True, kw_only=True)
class _Client:
    budget: JudgeBudgetConfig
    health: JudgeHealthConfig
    account: str
    endpoints: tuple[str, ...]
    lease_timeout_s: float
    active_at: float
    wanted: dict[int, LeaseRequest] = field(default_factory=dict[int, LeaseRequest])
    answered: dict[int, None] = field(default_factory=dict[int, None])
    """Requests granted or refused lately. A client whose messages cross asks for them again."""

    def answer(self, request_id: int) -> None:
        self.wanted.pop(request_id, None)
        self.answered[request_id] = None
        if len(self.answered) > _REMEMBERED_ANSWERS:
            del self.answered[next(iter(self.answered))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Out:
    """A lease that has no outcome yet."""

    client: str
    endpoint: str
    request: LeaseRequest
    granted_at: float
    lost_at: float


class Dispatch:
    """The budget's state. Every method takes the time from `now`."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        """`now`: seconds on a clock that never goes back."""
        self._now = now
        self._clients: dict[str, _Client] = {}
        self._endpoints: dict[str, EndpointHealth] = {}
        self._accounts: dict[str, Account] = {}
        self._requests, self._tokens = RateWindow(), RateWindow()
        self._out: dict[int, _Out] = {}
        self._last_lease = 0
        self._last_restored = 0

    # ------------------------------------------------------------------------
    # Clients

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
        """Take part, or change one's limits."""
        known = self._clients.get(client)
        self._clients[client] = _Client(
            budget=budget,
            health=health,
            account=account,
            endpoints=tuple(endpoints),
            lease_timeout_s=lease_timeout_s,
            active_at=self._now(),
            wanted=known.wanted if known else {},
            answered=known.answered if known else {},
        )
        self._accounts.setdefault(account, Account())
        ceiling = self._max_concurrency()
        for name in endpoints:
            if name not in self._endpoints:
                self._endpoints[name] = EndpointHealth(name=name, ceiling=ceiling)
        for endpoint in self._endpoints.values():
            if endpoint.ceiling != ceiling:
                untouched = endpoint.limit == endpoint.ceiling
                endpoint.ceiling = ceiling
                endpoint.limit = ceiling if untouched else min(endpoint.limit, ceiling)

    def _active(self) -> list[_Client]:
        since = self._now() - ACTIVE_S
        return [client for client in self._clients.values() if client.active_at >= since]

    def _max_concurrency(self) -> int:
        return min((c.budget.max_concurrency for c in self._active()), default=1)

    def _per_minute(self, name: str) -> float:
        limits = [getattr(client.budget, name) for client in self._active()]
        return min((limit for limit in limits if limit is not None), default=math.inf)

    def _max_cost_usd(self, account: str) -> float | None:
        limits = [c.budget.max_cost_usd for c in self._active() if c.account == account]
        return min((limit for limit in limits if limit is not None), default=None)

    # ------------------------------------------------------------------------
    # Exchanging

    def exchange(
        self, client: str, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        """Settle outcomes, then grant what can be granted now. Raises KeyError if unknown."""
        member = self._clients[client]
        member.active_at = self._now()
        self._expire()
        for outcome in outcomes:
            self._settle(outcome, self._now())
        wanted = [r for r in wanted if r.request_id not in member.answered]
        member.wanted = {request.request_id: request for request in wanted}
        leases: list[Lease] = []
        refusals: list[Refusal] = []
        room = self._share_of_room(member)
        for request in wanted:
            if refusal := self._refusal(member, request):
                refusals.append(refusal)
                member.answer(request.request_id)
            elif len(leases) < room and (lease := self._grant(client, member, request)):
                leases.append(lease)
                member.answer(request.request_id)
            elif len(leases) >= room or not request.avoid:
                break  # what doesn't fit now would not fit for a later one either
        next_in_s = self._next_in() if member.wanted else None
        return Grants(leases=tuple(leases), refusals=tuple(refusals), next_in_s=next_in_s)

    def _share_of_room(self, member: _Client) -> int:
        """How many leases this client may get now: an equal share of what all wait for."""
        requests_left = self._per_minute("requests_per_minute") - self._requests.total
        room = min(self._max_concurrency() - len(self._out), requests_left)
        waiting = sum(1 for client in self._active() if client.wanted) or 1
        return math.ceil(max(0.0, room) / waiting)

    def _refusal(self, member: _Client, request: LeaseRequest) -> Refusal | None:
        """A request that would wait for ever."""
        limit = self._per_minute("tokens_per_minute")
        if request.tokens > limit:
            return Refusal(
                request_id=request.request_id,
                cause=FailureCause.REFUSED_REQUEST,
                message=(
                    f"one request of about {request.tokens} tokens is more than "
                    f"judge.budget.tokens_per_minute={limit:g}: raise it, or use "
                    "judge.llm.mode=chunk or a smaller judge.llm.max_reply_tokens"
                ),
            )
        account, most = self._accounts[member.account], self._max_cost_usd(member.account)
        # What is reserved may cost less in the end: then it is worth waiting for.
        if account.can_ever_allow(request.cost_usd, most):
            return None
        return Refusal(
            request_id=request.request_id,
            cause=FailureCause.BUDGET,
            message=(
                f"a request that may cost {request.cost_usd:.4f} USD would exceed "
                f"judge.budget.max_cost_usd={most:g}: {account.spent_usd:.4f} USD are spent"
            ),
        )

    def _grant(self, client: str, member: _Client, request: LeaseRequest) -> Lease | None:
        now = self._now()
        if self._tokens.total + request.tokens > self._per_minute("tokens_per_minute"):
            return None
        most = self._max_cost_usd(member.account)
        if not self._accounts[member.account].allows(request.cost_usd, most):
            return None
        endpoint = self._choose(member, request.avoid)
        if endpoint is None:
            return None
        self._last_lease += 1
        lease_id = self._last_lease
        self._out[lease_id] = _Out(
            client=client,
            endpoint=endpoint.name,
            request=request,
            granted_at=now,
            lost_at=now + member.lease_timeout_s,
        )
        endpoint.granted()
        self._requests.add(lease_id, 1, now)
        self._tokens.add(lease_id, request.tokens, now)
        self._accounts[member.account].reserve(request.cost_usd)
        hedge = endpoint.hedge_after_s() if member.health.hedge else None
        return Lease(
            lease_id=lease_id,
            request_id=request.request_id,
            endpoint=endpoint.name,
            hedge_after_s=hedge,
        )

    def _choose(self, member: _Client, avoid: str | None) -> EndpointHealth | None:
        """The least loaded endpoint with room; the avoided one only if no other is up."""
        now = self._now()
        own = [self._endpoints[name] for name in member.endpoints]
        if any(endpoint.is_up(now) for endpoint in own if endpoint.name != avoid):
            own = [endpoint for endpoint in own if endpoint.name != avoid]
        free = [endpoint for endpoint in own if endpoint.has_room(now)]
        return min(free, key=lambda e: (e.in_flight / e.limit, e.grants), default=None)

    # ------------------------------------------------------------------------
    # Outcomes

    def _settle(self, outcome: Outcome, now: float) -> None:
        out = self._out.pop(outcome.lease_id, None)
        if out is None:
            return  # taken as lost before, or of a budget that was started anew
        member = self._clients[out.client]
        endpoint = self._endpoints[out.endpoint]
        endpoint.in_flight -= 1
        self._tell(endpoint, member, out, outcome, now)
        if outcome.kind == "unused":
            self._requests.drop(outcome.lease_id)
            self._tokens.drop(outcome.lease_id)
        else:
            self._requests.settle(outcome.lease_id, now)
            self._tokens.settle(outcome.lease_id, now, outcome.tokens or None)
        self._accounts[member.account].settle(out.request.cost_usd, outcome.cost_usd)

    def _tell(
        self, endpoint: EndpointHealth, member: _Client, out: _Out, outcome: Outcome, now: float
    ) -> None:
        adaptive = member.budget.adaptive
        match outcome.kind:
            case "ok":
                endpoint.succeeded(outcome.latency_s, adaptive=adaptive)
            case "rate_limited":
                endpoint.was_rate_limited(
                    out.granted_at, outcome.retry_after_s, now, adaptive=adaptive
                )
            case "refused":
                endpoint.answered()
            case "failed" | "timeout" | "wrong_judge":
                wrong = outcome.kind == "wrong_judge"
                endpoint.failed(member.health, now, wrong=wrong)
            case "cancelled" | "unused":
                endpoint.gave_up_probe(now)

    def _expire(self) -> None:
        """Let go of what is over: old counts, and leases whose worker must have died."""
        now = self._now()
        self._requests.expire(now)
        self._tokens.expire(now)
        # In the order of their grants; timeouts differ between runs only.
        for lease_id, out in tuple(islice(self._out.items(), _EXPIRED_AT_ONCE)):
            if out.lost_at <= now:
                most = out.request.cost_usd  # a provider may bill what nobody waited for
                lost = Outcome(lease_id=lease_id, kind="cancelled", cost_usd=most)
                self._settle(lost, now)

    def _next_in(self) -> float | None:
        """Seconds until more could be granted without a report."""
        now = self._now()
        moments = [self._requests.next_in(now), self._tokens.next_in(now)]
        moments += [endpoint.next_in(now) for endpoint in self._endpoints.values()]
        return min((moment for moment in moments if moment is not None), default=None)

    # ------------------------------------------------------------------------
    # Looking on, saving

    def snapshot(self, account: str) -> DispatchSnapshot:
        """How things stand."""
        now, endpoints = self._now(), self._endpoints.values()
        total = sum(int(endpoint.limit) for endpoint in endpoints)
        return DispatchSnapshot(
            spent_usd=self._accounts[account].spent_usd if account in self._accounts else 0.0,
            in_flight=len(self._out),
            waiting=sum(len(client.wanted) for client in self._active()),
            concurrency_limit=min(self._max_concurrency(), total),
            num_endpoints=len(endpoints),
            num_endpoints_up=sum(endpoint.is_up(now) for endpoint in endpoints),
            rate_limited=sum(endpoint.rate_limited for endpoint in endpoints),
            endpoints={endpoint.name: endpoint.in_words() for endpoint in endpoints},
        )

    def to_json(self, account: str) -> str:
        """What a checkpoint keeps: money, limits, and what the last minute took."""
        now = self._now()
        state = {
            "spent_usd": self._accounts[account].spent_usd if account in self._accounts else 0.0,
            "limits": {e.name: e.limit for e in self._endpoints.values()},
            "open_for_s": {e.name: max(0.0, e.open_until - now) for e in self._endpoints.values()},
            "requests": self._requests.ages(now),
            "tokens": self._tokens.ages(now),
        }
        return json.dumps(state)

    def restore(self, account: str, text: str) -> None:
        """Go on from `to_json`. What is known here already is never lowered."""
        state: dict[str, Any] = json.loads(text)
        own = self._accounts.setdefault(account, Account())
        own.spent_usd = max(own.spent_usd, state["spent_usd"])
        fresh = not self._last_lease and not self._last_restored
        if fresh:
            now = self._now()
            for name in state["limits"].keys() & self._endpoints.keys():
                endpoint = self._endpoints[name]
                endpoint.restore(state["limits"][name], state["open_for_s"][name], now)
            self._requests.restore(state["requests"], -1, now)
            self._tokens.restore(state["tokens"], -1, now)
        self._last_restored += 1
