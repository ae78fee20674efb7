"""The judge budget as a state machine, with a clock that the tests turn."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_rl.config.schema import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.leases import LEASE_USE_S, Lease, LeaseRequest, Outcome, OutcomeKind
from rubric_rl.types import FailureCause

A, B, C = "http://a/v1", "http://b/v1", "http://c/v1"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A dispatch with one client `w`, driven by hand."""

    def __init__(self, endpoints: Sequence[str] = (A,), **budget: object) -> None:
        self.clock = Clock()
        self.dispatch = Dispatch(now=self.clock)
        self.health = JudgeHealthConfig(failures_to_open=3, open_s=5.0, max_open_s=20.0)
        self.next_id = 0
        self.join("w", endpoints, **budget)

    def join(self, client: str, endpoints: Sequence[str] = (A,), **budget: object) -> None:
        self.dispatch.join(
            client,
            budget=JudgeBudgetConfig.model_validate(budget),
            health=self.health,
            account="run",
            endpoints=endpoints,
            lease_timeout_s=100.0,
        )

    def wish(self, tokens: int = 10, cost: float = 0.0, avoid: str | None = None) -> LeaseRequest:
        self.next_id += 1
        return LeaseRequest(
            request_id=self.next_id, tokens=tokens, cost_usd=cost, avoid=avoid, account="run"
        )

    def grant(self, count: int = 1, client: str = "w", **wish: object) -> list[Lease]:
        wishes = [self.wish(**wish) for _ in range(count)]
        return list(self.dispatch.exchange(client, (), wishes).leases)

    def end(self, lease: Lease, kind: OutcomeKind = "ok", **fields: object) -> None:
        outcome = Outcome(lease_id=lease.lease_id, kind=kind, **fields)
        self.dispatch.exchange("w", [outcome], ())

    def serve(self, seconds: float = 0.1, **wish: object) -> Lease:
        """One whole successful request."""
        [lease] = self.grant(**wish)
        self.clock.now += seconds
        self.end(lease, latency_s=seconds)
        return lease


# ----------------------------------------------------------------------------
# Concurrency


def test_no_more_requests_are_out_than_allowed_and_each_outcome_makes_room_for_one() -> None:
    bench = Bench(max_concurrency=3)
    leases = bench.grant(5)
    assert len(leases) == 3
    assert bench.grant() == []
    bench.end(leases[0])
    assert len(bench.grant(2)) == 1


def test_a_429_lowers_the_limit_once_for_all_that_were_out() -> None:
    bench = Bench(max_concurrency=10)
    leases = bench.grant(10)
    bench.clock.now += 1.0
    for lease in leases:
        bench.end(lease, "rate_limited")
    assert bench.dispatch.snapshot("run").concurrency_limit == 7  # 10 x 0.7
    assert bench.dispatch.snapshot("run").rate_limited == 10


def test_one_round_trip_of_successes_raises_the_limit_by_about_one() -> None:
    bench = Bench(max_concurrency=10)
    [lease, *rest] = bench.grant(10)
    bench.end(lease, "rate_limited")
    for other in rest:
        bench.end(other, "rate_limited")
    bench.clock.now += 1.0
    for lease in bench.grant(7):
        bench.end(lease, latency_s=1.0)
    # Seven additions of 1/limit from 7.0 on: just below 8.
    assert bench.dispatch.snapshot("run").concurrency_limit == 7
    bench.serve()
    assert bench.dispatch.snapshot("run").concurrency_limit == 8
    for _ in range(100):
        bench.serve()
    assert bench.dispatch.snapshot("run").concurrency_limit == 10  # the ceiling


def test_without_adaption_a_429_changes_nothing() -> None:
    bench = Bench(max_concurrency=10, adaptive=False)
    for lease in bench.grant(10):
        bench.end(lease, "rate_limited")
    assert bench.dispatch.snapshot("run").concurrency_limit == 10


def test_retry_after_pauses_its_endpoint_only() -> None:
    bench = Bench([A, B], max_concurrency=10)
    [lease] = bench.grant()
    bench.end(lease, "rate_limited", retry_after_s=30.0)
    assert {granted.endpoint for granted in bench.grant(4)} == {B}
    bench.clock.now += 30.0
    assert A in {granted.endpoint for granted in bench.grant(4)}


def test_an_endpoint_that_slows_down_gets_less_and_log_normal_tails_do_not_count() -> None:
    rng = random.Random(0)
    bench = Bench(max_concurrency=100)
    for _ in range(5000):
        bench.serve(0.4 * rng.lognormvariate(0.0, 1.0))
    assert bench.dispatch.snapshot("run").concurrency_limit == 100
    for _ in range(50):
        bench.serve(0.4 * 4 * rng.lognormvariate(0.0, 0.2))
    assert bench.dispatch.snapshot("run").concurrency_limit == 90  # x 0.9, after a batch of 50


# ----------------------------------------------------------------------------
# Rates


def test_requests_a_minute_are_counted_from_when_the_server_saw_them_at_the_latest() -> None:
    bench = Bench(requests_per_minute=2, max_concurrency=10)
    first, second = bench.grant(3)
    bench.clock.now = 1.0
    bench.end(first)
    bench.clock.now = 20.0
    bench.end(second)  # it was sent within LEASE_USE_S of its grant, so at 5.0 at the latest
    bench.clock.now = 60.9
    assert bench.grant() == []
    bench.clock.now = 61.0
    assert len(bench.grant(2)) == 1
    bench.clock.now = 64.9
    assert bench.grant() == []
    bench.clock.now = 65.0
    assert len(bench.grant()) == 1


def test_a_lease_that_was_not_used_counts_no_more() -> None:
    bench = Bench(requests_per_minute=1, tokens_per_minute=10)
    [lease] = bench.grant()
    bench.end(lease, "unused")
    assert len(bench.grant()) == 1


def test_an_estimate_of_tokens_is_corrected_by_the_outcome() -> None:
    bench = Bench(tokens_per_minute=100)
    [lease] = bench.grant(tokens=90)
    assert bench.grant(tokens=20) == []
    bench.end(lease, tokens=70)
    assert len(bench.grant(tokens=30)) == 1
    assert bench.grant(tokens=1) == []


def test_a_request_of_more_tokens_than_a_minute_has_is_refused_and_does_not_wait_for_ever() -> None:
    bench = Bench(tokens_per_minute=100)
    grants = bench.dispatch.exchange("w", (), [bench.wish(tokens=101)])
    [refusal] = grants.refusals
    assert refusal.cause is FailureCause.REFUSED_REQUEST
    assert "judge.budget.tokens_per_minute=100" in refusal.message


def test_the_wait_until_more_is_possible_is_told() -> None:
    bench = Bench(requests_per_minute=1)
    bench.serve(1.0)
    grants = bench.dispatch.exchange("w", (), [bench.wish()])
    assert grants.next_in_s == pytest.approx(60.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 30), clients=st.integers(1, 3))
def test_no_minute_at_the_server_holds_more_than_the_limit(
    seed: int, limit: int, clients: int
) -> None:
    arrivals = simulate(seed, limit, clients, until=200.0, latency=2.0)
    for start in arrivals:
        assert sum(start <= t < start + 60.0 for t in arrivals) <= limit


def test_the_limit_of_requests_is_nearly_used_up_when_there_is_demand() -> None:
    arrivals = simulate(1, 60, 2, until=600.0, latency=1.0)
    assert len(arrivals) >= 0.85 * 600


def simulate(seed: int, limit: int, clients: int, *, until: float, latency: float) -> list[float]:
    """When requests reach a server, some time between their grant and their outcome."""
    rng = random.Random(seed)
    bench = Bench(requests_per_minute=limit, max_concurrency=20)
    names = [f"w{i}" for i in range(clients)]
    for name in names:
        bench.join(name, requests_per_minute=limit, max_concurrency=20)
    arrivals: list[float] = []
    events: list[tuple[float, int, str, Outcome | None]] = []
    for index, name in enumerate(names):
        heapq.heappush(events, (0.0, index, name, None))
    count = clients
    while events and events[0][0] < until:
        bench.clock.now, _, name, outcome = heapq.heappop(events)
        reports = [] if outcome is None else [outcome]
        grants = bench.dispatch.exchange(name, reports, [bench.wish() for _ in range(5)])
        for lease in grants.leases:
            sent = rng.uniform(0.0, LEASE_USE_S * 0.9)
            done = sent + rng.uniform(0.0, latency)
            arrivals.append(bench.clock.now + rng.uniform(sent, min(done, LEASE_USE_S)))
            count += 1
            ended = Outcome(lease_id=lease.lease_id, kind="ok", latency_s=done)
            heapq.heappush(events, (bench.clock.now + done, count, name, ended))
        if outcome is None:
            count += 1
            heapq.heappush(events, (bench.clock.now + 0.25, count, name, None))
    return arrivals


# ----------------------------------------------------------------------------
# Money


def test_what_is_spent_reserved_and_asked_for_never_exceeds_the_money() -> None:
    bench = Bench(max_cost_usd=1.0)
    [first, second] = bench.grant(2, cost=0.4)
    assert bench.grant(cost=0.4) == []  # it waits: what is reserved may cost less
    bench.end(first, cost_usd=0.1)
    bench.end(second, cost_usd=0.1)
    assert bench.dispatch.snapshot("run").spent_usd == pytest.approx(0.2)
    assert len(bench.grant(3, cost=0.4)) == 2


def test_a_request_that_can_not_be_paid_any_more_is_refused_in_words() -> None:
    bench = Bench(max_cost_usd=1.0)
    [lease] = bench.grant(cost=0.7)
    bench.end(lease, cost_usd=0.7)
    [refusal] = bench.dispatch.exchange("w", (), [bench.wish(cost=0.4)]).refusals
    assert refusal.cause is FailureCause.BUDGET
    assert "judge.budget.max_cost_usd=1: 0.7000 USD are spent" in refusal.message


def test_a_request_that_was_never_sent_costs_nothing() -> None:
    bench = Bench(max_cost_usd=1.0)
    cancelled, unused = bench.grant(2, cost=0.5)
    bench.end(cancelled, "cancelled", cost_usd=0.3)
    bench.end(unused, "unused")
    assert bench.dispatch.snapshot("run").spent_usd == pytest.approx(0.3)
    assert len(bench.grant(2, cost=0.35)) == 2


def test_a_lease_whose_worker_died_comes_back_and_its_cost_stays() -> None:
    bench = Bench(max_concurrency=1, max_cost_usd=1.0)
    [lost] = bench.grant(cost=0.3)
    bench.clock.now = 99.0
    assert bench.grant(cost=0.3) == []
    bench.clock.now = 100.0
    assert len(bench.grant(cost=0.3)) == 1
    assert bench.dispatch.snapshot("run").spent_usd == pytest.approx(0.3)
    bench.end(lost, "ok", cost_usd=0.2)  # too late to count
    assert bench.dispatch.snapshot("run").in_flight == 1


# ----------------------------------------------------------------------------
# Health


def test_failures_in_a_row_open_an_endpoint_and_one_probe_closes_it() -> None:
    bench = Bench(max_concurrency=10)
    for _ in range(3):
        [lease] = bench.grant()
        bench.end(lease, "failed")
    assert bench.grant() == []
    assert bench.dispatch.snapshot("run").num_endpoints_up == 0
    assert bench.dispatch.exchange("w", (), [bench.wish()]).next_in_s == pytest.approx(5.0)
    bench.clock.now += 5.0
    [probe] = bench.grant(4)
    bench.end(probe)
    assert len(bench.grant(4)) == 4


def test_each_failed_probe_doubles_the_wait_up_to_the_longest() -> None:
    bench = Bench()
    for _ in range(3):
        [lease] = bench.grant()
        bench.end(lease, "timeout")
    for wait in (5.0, 10.0, 20.0, 20.0):
        bench.clock.now += wait - 0.01
        assert bench.grant() == []
        bench.clock.now += 0.011
        [probe] = bench.grant(2)
        bench.end(probe, "failed")


@pytest.mark.parametrize("kind", ["refused", "rate_limited"])
def test_an_endpoint_that_answers_is_well(kind: OutcomeKind) -> None:
    bench = Bench(max_concurrency=10, adaptive=False)
    for outcome in ("failed", "failed", kind, "failed", "failed"):
        [lease] = bench.grant()
        bench.end(lease, outcome)
    assert len(bench.grant()) == 1


def test_a_wrong_model_opens_its_endpoint_at_once_and_says_so() -> None:
    bench = Bench([A, B])
    [lease] = bench.grant()
    bench.end(lease, "wrong_judge")
    assert bench.dispatch.snapshot("run").endpoints[A] == "open (wrong model)"
    assert {granted.endpoint for granted in bench.grant(4)} == {B}
    bench.clock.now += 5.0
    probe = next(lease for lease in bench.grant(9) if lease.endpoint == A)
    bench.end(probe)
    assert bench.dispatch.snapshot("run").endpoints[A] == "closed"


def test_a_probe_that_told_nothing_is_followed_by_another() -> None:
    bench = Bench()
    for _ in range(3):
        [lease] = bench.grant()
        bench.end(lease, "failed")
    bench.clock.now += 5.0
    [probe] = bench.grant()
    bench.end(probe, "cancelled")
    assert len(bench.grant()) == 1


def test_requests_go_where_the_load_is_least() -> None:
    bench = Bench([A, B, C], max_concurrency=9)
    assert [lease.endpoint for lease in bench.grant(6)] == [A, B, C, A, B, C]


def test_the_endpoint_that_failed_a_request_is_avoided_while_another_is_up() -> None:
    bench = Bench([A, B], max_concurrency=10)
    assert {lease.endpoint for lease in bench.grant(5, avoid=A)} == {B}
    for _ in range(3):
        lease = next(iter(bench.grant(avoid=A)))
        bench.end(lease, "failed")
    assert [lease.endpoint for lease in bench.grant(avoid=A)] == [A]


def test_late_requests_are_hedged_after_what_most_need_many_times_over() -> None:
    bench = Bench()
    assert bench.serve(0.5).hedge_after_s is None
    for _ in range(30):
        bench.serve(0.5)
    assert bench.serve(0.5).hedge_after_s == pytest.approx(2.0)  # 4 x the median


# ----------------------------------------------------------------------------
# Several clients


def test_waiting_clients_share_what_comes_free() -> None:
    bench = Bench(max_concurrency=4)
    bench.join("v", max_concurrency=4)
    leases = bench.grant(4)
    bench.dispatch.exchange("v", (), [bench.wish() for _ in range(4)])
    outcomes = [Outcome(lease_id=lease.lease_id, kind="ok") for lease in leases]
    mine = bench.dispatch.exchange("w", outcomes, [bench.wish() for _ in range(4)])
    assert len(mine.leases) == 2  # the other half is for `v`, which has waited
    assert len(bench.grant(4, client="v")) == 1  # half of two
    assert len(bench.grant(4, client="v")) == 1


def test_the_strictest_limit_of_the_active_clients_counts_for_all() -> None:
    bench = Bench(requests_per_minute=50, max_concurrency=8)
    bench.join("v", requests_per_minute=3, max_concurrency=20)
    assert len(bench.grant(8)) == 3
    bench.clock.now += 61.0  # `v` has not been heard of for a minute
    bench.dispatch.exchange("w", (), ())
    assert len(bench.grant(8)) == 5  # 8 at once, of which 3 are out


def test_a_request_asked_for_again_after_its_grant_gets_no_second_lease() -> None:
    bench = Bench()
    first, second = bench.wish(), bench.wish()
    assert len(bench.dispatch.exchange("w", (), [first]).leases) == 1
    [lease] = bench.dispatch.exchange("w", (), [first, second]).leases
    assert lease.request_id == second.request_id


def test_a_client_that_is_not_known_is_an_error() -> None:
    with pytest.raises(KeyError):
        Bench().dispatch.exchange("stranger", (), ())


# ----------------------------------------------------------------------------
# Checkpoints


def test_a_restored_budget_goes_on_with_its_money_limits_and_last_minute() -> None:
    bench = Bench(requests_per_minute=3, max_concurrency=10, max_cost_usd=1.0)
    first, second = bench.grant(2, cost=0.2)
    bench.end(first, cost_usd=0.2)
    bench.end(second, "rate_limited")
    text = bench.dispatch.to_json("run")
    again = Bench(requests_per_minute=3, max_concurrency=10, max_cost_usd=1.0)
    again.clock.now = 5000.0  # another process, another clock
    again.join("w", requests_per_minute=3, max_concurrency=10, max_cost_usd=1.0)
    again.dispatch.restore("run", text)
    snapshot = again.dispatch.snapshot("run")
    assert (snapshot.spent_usd, snapshot.concurrency_limit) == (0.2, 7)
    assert len(again.grant(3)) == 1
    again.clock.now += 60.0
    assert len(again.grant(3)) == 2


def test_restoring_never_lowers_what_is_known() -> None:
    bench = Bench(max_cost_usd=1.0)
    [lease] = bench.grant(cost=0.5)
    bench.end(lease, cost_usd=0.5)
    older = json.loads(bench.dispatch.to_json("run")) | {"spent_usd": 0.1}
    bench.dispatch.restore("run", json.dumps(older))
    assert bench.dispatch.snapshot("run").spent_usd == 0.5
