"""Rates, concurrency and money; rates also as a simulated server sees them."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.leases import LEASE_USE_S, LeaseRequest, Outcome
from rubric_rl.judging.limits import Account, ConcurrencyLimit, RateWindow, refusal, strictest
from rubric_rl.types import FailureCause

# ----------------------------------------------------------------------------
# The window by hand


def window(*grants: tuple[int, int, float]) -> RateWindow:
    counted = RateWindow()
    for lease_id, tokens, now in grants:
        counted.add(lease_id, tokens, now)
    return counted


def counts(counted: RateWindow, now: float) -> tuple[int, int]:
    counted.expire(now)
    return counted.num_requests, counted.tokens


def test_a_lease_counts_until_a_minute_after_its_outcome() -> None:
    counted = window((1, 10, 100.0))
    counted.settle(1, 102.0)
    assert counts(counted, 161.9) == (1, 10)
    assert counts(counted, 162.0) == (0, 0)


def test_a_late_outcome_counts_from_when_the_lease_had_to_be_used() -> None:
    counted = window((1, 10, 100.0))
    counted.settle(1, 150.0)
    assert counts(counted, 164.9) == (1, 10)
    assert counts(counted, 165.0) == (0, 0)  # 100 + LEASE_USE_S + 60


def test_a_lease_without_an_outcome_counts_as_long_as_it_may_have_been_used_late() -> None:
    counted = window((1, 10, 100.0))
    assert counts(counted, 164.9) == (1, 10)
    assert counts(counted, 165.0) == (0, 0)
    counted.settle(1, 170.0, 99)  # its outcome comes after all
    counted.drop(1)
    assert counts(counted, 170.0) == (0, 0)


def test_an_unused_lease_leaves_at_once() -> None:
    counted = window((1, 10, 0.0), (2, 20, 0.0))
    counted.drop(1)
    assert counts(counted, 0.0) == (1, 20)


def test_the_outcome_corrects_the_estimate_of_tokens() -> None:
    counted = window((1, 10, 0.0), (2, 20, 0.0))
    counted.settle(1, 1.0, 17)
    assert counts(counted, 1.0) == (2, 37)
    assert counts(counted, 61.0) == (1, 20)  # the correction left with its lease


def test_outcomes_out_of_order_leave_each_at_its_own_time() -> None:
    counted = window((1, 1, 0.0), (2, 2, 1.0), (3, 4, 2.0))
    counted.settle(3, 2.5)
    counted.settle(1, 4.0)
    assert counted.next_in(10.0) == 52.5
    assert [counts(counted, t)[1] for t in (62.4, 62.5, 64.0, 65.9, 66.0)] == [7, 3, 2, 2, 0]


def test_an_empty_window_has_nothing_that_leaves() -> None:
    assert RateWindow().next_in(0.0) is None


def test_a_saved_window_counts_in_another_at_least_as_long() -> None:
    counted = window((1, 10, 100.0), (2, 20, 100.3))
    counted.settle(1, 101.5)
    other = window((1, 5, 7.0))
    other.restore(counted.state(110.0), 7.0)
    # They leave 51.5 s and 55.3 s after the saving; whole seconds on the safe side.
    assert counts(other, 7.0 + 51.9) == (3, 35)
    assert counts(other, 7.0 + 52.0) == (2, 25)
    assert counts(other, 7.0 + 56.0) == (1, 5)


def test_a_saved_window_is_small_however_many_requests_it_holds() -> None:
    counted = window(*((i, 10, i / 1000) for i in range(60_000)))
    state = counted.state(60.0)
    assert len(state) <= 66
    assert sum(requests for _, requests, _ in state) == 60_000


# ----------------------------------------------------------------------------
# The window as the server sees it


@dataclass(slots=True)
class Simulated:
    """Clients with endless demand, their requests on the way, and the server they reach."""

    seed: int
    num_clients: int
    budget: JudgeBudgetConfig
    latency_s: float
    use_s: float
    """Longest time from grant to arrival; what would be later is given back unused."""
    death_rate: float = 0.0
    restart_at: float = math.inf
    now: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """Time and tokens, as the server counts them."""

    def run(self, until: float) -> list[tuple[float, int]]:
        rng, ids = random.Random(self.seed), itertools.count()
        dispatch, restarted = self.start(0), False
        wishes = {name: deque(self.wishes(rng, ids)) for name in self.names}
        reports: dict[str, list[Outcome]] = defaultdict(list)
        events: list[tuple[float, int, str, Outcome | None]] = []
        for name in self.names:
            heapq.heappush(events, (rng.random(), next(ids), name, None))
        while events and events[0][0] < until:
            self.now, _, name, outcome = heapq.heappop(events)
            if self.now >= self.restart_at and not restarted:
                text, restarted = dispatch.to_json("run"), True
                dispatch = self.start(1)
                dispatch.restore("run", text)
            if outcome is None:
                heapq.heappush(events, (self.now + 0.25, next(ids), name, None))
            else:
                reports[name].append(outcome)
            sizes = {request.request_id: request.tokens for request in wishes[name]}
            grants = dispatch.exchange(name, reports.pop(name, ()), list(wishes[name]))
            granted = {lease.request_id for lease in grants.leases}
            wishes[name] = deque(r for r in wishes[name] if r.request_id not in granted)
            wishes[name].extend(self.wishes(rng, ids, len(granted)))
            for lease in grants.leases:
                end = self.send(rng, lease.lease_id, sizes[lease.request_id])
                if end is not None:
                    heapq.heappush(events, (end[0], next(ids), name, end[1]))
        return self.arrivals

    @property
    def names(self) -> list[str]:
        return [f"w{index}" for index in range(self.num_clients)]

    def start(self, number: int) -> Dispatch:
        dispatch = Dispatch(now=lambda: self.now, source=number * 10**9)
        for name in self.names:
            dispatch.join(
                name,
                budget=self.budget,
                health=JudgeHealthConfig(),
                account="run",
                endpoints=["http://a/v1"],
                lease_timeout_s=90.0,
            )
        return dispatch

    def wishes(self, rng: random.Random, ids: itertools.count[int], num: int = 8):
        for _ in range(num):
            yield LeaseRequest(request_id=next(ids), tokens=rng.randint(50, 150), cost_usd=0.0)

    def send(self, rng: random.Random, lease_id: int, estimate: int):
        """When the outcome comes and what it is; None if the worker dies."""
        delay = rng.uniform(0.0, self.use_s)
        if delay > LEASE_USE_S:
            return self.now + delay, Outcome(lease_id=lease_id, kind="unused")
        tokens = rng.randint(estimate // 2, estimate)
        self.arrivals.append((self.now + delay, tokens))
        if rng.random() < self.death_rate:
            return None
        took = rng.uniform(0.0, self.latency_s)
        ok = Outcome(lease_id=lease_id, kind="ok", latency_s=took, tokens=tokens)
        return self.now + delay + took, ok


def most_in_a_minute(arrivals: Sequence[tuple[float, int]]) -> tuple[int, int]:
    """Most requests, and most tokens, in any 60 s."""
    inside: deque[tuple[float, int]] = deque()
    tokens, most = 0, (0, 0)
    for at, amount in sorted(arrivals):
        while inside and inside[0][0] <= at - 60.0 + 1e-6:
            tokens -= inside.popleft()[1]
        inside.append((at, amount))
        tokens += amount
        most = (max(most[0], len(inside)), max(most[1], tokens))
    return most


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_clients=st.integers(1, 4),
    requests=st.integers(1, 60),
    tokens=st.integers(150, 6000),
    latency_s=st.sampled_from([0.1, 2.0, 20.0]),
    restart_at=st.sampled_from([30.0, 75.0, math.inf]),
)
def test_no_minute_at_the_server_holds_more_than_the_limits(
    seed: int, num_clients: int, requests: int, tokens: int, latency_s: float, restart_at: float
) -> None:
    budget = JudgeBudgetConfig(
        max_concurrency=40, requests_per_minute=requests, tokens_per_minute=tokens
    )
    simulated = Simulated(
        seed, num_clients, budget, latency_s, use_s=5.3, death_rate=0.03, restart_at=restart_at
    )
    most = most_in_a_minute(simulated.run(until=220.0))
    assert most[0] <= requests
    assert most[1] <= tokens


@pytest.mark.parametrize("num_clients", [1, 4])
def test_the_limit_of_requests_is_nearly_used_up_when_there_is_demand(num_clients: int) -> None:
    budget = JudgeBudgetConfig(max_concurrency=64, requests_per_minute=120)
    arrivals = Simulated(1, num_clients, budget, latency_s=2.0, use_s=0.3).run(until=1200.0)
    assert len(arrivals) >= 0.85 * 20 * 120
    assert most_in_a_minute(arrivals)[0] <= 120


@pytest.mark.parametrize("num_clients", [1, 4])
def test_the_limit_of_tokens_is_nearly_used_up_when_there_is_demand(num_clients: int) -> None:
    budget = JudgeBudgetConfig(max_concurrency=64, tokens_per_minute=12_000)
    arrivals = Simulated(1, num_clients, budget, latency_s=2.0, use_s=0.3).run(until=1200.0)
    assert sum(tokens for _, tokens in arrivals) >= 0.85 * 20 * 12_000
    assert most_in_a_minute(arrivals)[1] <= 12_000


# ----------------------------------------------------------------------------
# Concurrency


def test_the_limit_starts_at_the_ceiling_and_never_passes_it() -> None:
    limit = ConcurrencyLimit(8)
    limit.succeeded()
    assert (limit.value, limit.whole) == (8.0, 8)


def test_a_429_takes_three_tenths_once_a_round_trip() -> None:
    limit = ConcurrencyLimit(10)
    limit.was_rate_limited(granted_at=0.0, now=1.0, in_use=10)
    limit.was_rate_limited(granted_at=0.9, now=1.1, in_use=10)  # it was out at the decrease
    assert limit.value == pytest.approx(7.0)
    limit.was_rate_limited(granted_at=1.2, now=2.0, in_use=7)
    assert limit.value == pytest.approx(4.9)


def test_a_limit_far_above_the_load_that_met_a_429_comes_down_to_it() -> None:
    limit = ConcurrencyLimit(64)
    limit.was_rate_limited(granted_at=0.0, now=1.0, in_use=20)
    assert limit.value == pytest.approx(14.0)


def test_a_round_trip_of_successes_adds_about_one() -> None:
    limit = ConcurrencyLimit(100, value=10.0)
    for _ in range(10):
        limit.succeeded()
    assert 10.9 < limit.value < 11.0


def test_the_limit_never_falls_below_one() -> None:
    limit = ConcurrencyLimit(2)
    for now in range(1, 9):
        limit.was_rate_limited(granted_at=now - 0.5, now=float(now), in_use=1)
    assert (limit.value, limit.whole) == (1.0, 1)


def test_a_new_ceiling_moves_only_a_limit_that_nothing_has_lowered() -> None:
    untouched, lowered = ConcurrencyLimit(10), ConcurrencyLimit(10)
    lowered.was_rate_limited(granted_at=0.0, now=1.0, in_use=10)
    for limit in (untouched, lowered):
        limit.set_ceiling(50)
    assert (untouched.whole, lowered.whole) == (50, 7)
    lowered.set_ceiling(3)
    assert lowered.whole == 3


# ----------------------------------------------------------------------------
# Money, and what is allowed


def test_money_is_spent_reserved_and_settled_without_rounding_errors_piling_up() -> None:
    account = Account()
    for _ in range(1000):
        for _ in range(3):
            account.reserve(0.1)
        for _ in range(3):
            account.settle(0.1, 0.0)
    assert account.reserved_usd == 0.0
    assert account.allows(0.3, 0.1 + 0.2)
    assert not account.allows(0.31, 0.3)


def test_the_strictest_limits_are_the_least_that_is_set() -> None:
    limits = strictest(
        [
            JudgeBudgetConfig(max_concurrency=9, requests_per_minute=70, adaptive=False),
            JudgeBudgetConfig(max_concurrency=20, requests_per_minute=50),
        ],
        [JudgeHealthConfig(failures_to_open=2), JudgeHealthConfig(open_s=30.0)],
    )
    assert (limits.max_concurrency, limits.requests_per_minute) == (9, 50)
    assert limits.tokens_per_minute == math.inf
    assert limits.adaptive
    assert (limits.health.failures_to_open, limits.health.open_s) == (2, 30.0)


def test_what_can_never_be_granted_is_refused_with_its_figures() -> None:
    request = LeaseRequest(request_id=7, tokens=101, cost_usd=0.5)
    account = Account(spent_usd=0.25, reserved_usd=0.5)
    assert refusal(request, account, None, math.inf) is None
    assert refusal(request, account, 0.75, 101) is None  # if what is reserved comes back
    assert not account.allows(0.5, 1.0)
    large, dear = refusal(request, account, None, 100), refusal(request, account, 0.7, 200)
    assert large is not None and dear is not None
    assert (large.request_id, large.cause) == (7, FailureCause.REFUSED_REQUEST)
    assert "101 tokens" in large.message and "tokens_per_minute=100" in large.message
    assert dear.cause is FailureCause.BUDGET
    assert "0.5000 USD would exceed" in dear.message
    assert "max_cost_usd=0.7: 0.2500 USD are spent" in dear.message
