"""The judge budget as a state machine, with a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.leases import Lease, LeaseRequest, Outcome, OutcomeKind
from rubric_rl.types import FailureCause

A, B, C = "http://a/v1", "http://b/v1", "http://c/v1"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(lease: Lease, kind: OutcomeKind = "ok", **fields: object) -> Outcome:
    return Outcome(lease_id=lease.lease_id, kind=kind, **fields)


class Bench:
    """A dispatch with one client `w`, driven by hand."""

    def __init__(self, endpoints: Sequence[str] = (A,), **budget: object) -> None:
        self.clock = Clock()
        self.dispatch = Dispatch(now=self.clock)
        self.health = JudgeHealthConfig(failures_to_open=3, open_s=5.0, max_open_s=20.0)
        self.next_id = 0
        self.join("w", endpoints, **budget)

    def join(
        self,
        client: str,
        endpoints: Sequence[str] = (A,),
        account: str = "run",
        lease_timeout_s: float = 100.0,
        **budget: object,
    ) -> None:
        self.dispatch.join(
            client,
            budget=JudgeBudgetConfig.model_validate(budget),
            health=self.health,
            account=account,
            endpoints=endpoints,
            lease_timeout_s=lease_timeout_s,
        )

    def wish(
        self, tokens: int = 10, cost: float = 0.0, avoid: str | None = None, account: str = ""
    ) -> LeaseRequest:
        self.next_id += 1
        return LeaseRequest(
            request_id=self.next_id, tokens=tokens, cost_usd=cost, avoid=avoid, account=account
        )

    def wishes(self, count: int, **wish: object) -> list[LeaseRequest]:
        return [self.wish(**wish) for _ in range(count)]

    def grant(self, count: int = 1, client: str = "w", **wish: object) -> list[Lease]:
        return list(self.dispatch.exchange(client, (), self.wishes(count, **wish)).leases)

    def end(self, lease: Lease, kind: OutcomeKind = "ok", **fields: object) -> None:
        self.dispatch.exchange("w", [ended(lease, kind, **fields)], ())

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


def test_a_429_takes_from_what_its_endpoint_had_out() -> None:
    bench = Bench([A, B, C], max_concurrency=60)
    leases = bench.grant(60)
    bench.clock.now += 1.0
    for lease in leases:
        if lease.endpoint == A:
            bench.end(lease, "rate_limited")
    # 20 x 0.7 = 14, though each alone might have all 60. Loads of 14, 60 and 60 are level at
    # 60 x 14 / 134 = 6.3.
    assert [lease.endpoint for lease in bench.grant(60)].count(A) == 7


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


def test_an_estimate_of_tokens_is_corrected_by_the_outcome() -> None:
    bench = Bench(tokens_per_minute=100)
    [lease] = bench.grant(tokens=90)
    assert bench.grant(tokens=20) == []
    assert bench.dispatch.exchange("w", (), [bench.wish(20)]).next_in_s == pytest.approx(65.0)
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
    bench.end(lost, "ok", cost_usd=0.2)  # too late to end anything, but its cost is known now
    snapshot = bench.dispatch.snapshot("run")
    assert (snapshot.in_flight, snapshot.spent_usd) == (1, pytest.approx(0.2))


def test_leases_of_long_timeouts_do_not_hide_a_lost_one_of_a_short_timeout() -> None:
    bench = Bench(max_concurrency=200)
    bench.join("short", lease_timeout_s=10.0, max_concurrency=200)
    bench.grant(90)
    bench.grant(5, client="short")
    bench.clock.now = 10.0
    bench.dispatch.exchange("w", (), ())
    assert bench.dispatch.snapshot("run").in_flight == 90


def test_a_request_that_was_given_up_costs_its_estimate_unless_told_otherwise() -> None:
    bench = Bench(max_cost_usd=1.0)
    told, untold = bench.grant(2, cost=0.5)
    bench.end(told, "cancelled", cost_usd=0.1)
    bench.end(untold, "cancelled")
    assert bench.dispatch.snapshot("run").spent_usd == pytest.approx(0.6)


def test_each_account_has_its_own_money() -> None:
    bench = Bench(max_cost_usd=1.0)
    bench.join("v", account="other", max_cost_usd=0.5)
    bench.end(*bench.grant(cost=0.9), cost_usd=0.9)
    assert len(bench.grant(client="v", cost=0.5)) == 1
    assert bench.grant(client="w", cost=0.2) == []
    assert bench.grant(client="w", cost=0.05, account="other") == []  # reserved by `v`
    assert bench.dispatch.snapshot("other").spent_usd == 0.0


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


def test_requests_go_where_the_load_is_least() -> None:
    bench = Bench([A, B, C], max_concurrency=9)
    leases = bench.grant(6)
    assert [lease.endpoint for lease in leases] == [A, B, C, A, B, C]
    for lease in leases:
        if lease.endpoint == B:
            bench.end(lease)
    assert [lease.endpoint for lease in bench.grant(3)] == [B, B, A]


def test_the_endpoint_that_failed_a_request_is_avoided_while_another_is_up() -> None:
    bench = Bench([A, B], max_concurrency=10)
    assert {lease.endpoint for lease in bench.grant(5, avoid=A)} == {B}
    for _ in range(3):
        lease = next(iter(bench.grant(avoid=A)))
        bench.end(lease, "failed")
    assert [lease.endpoint for lease in bench.grant(avoid=A)] == [A]


def test_a_request_that_avoids_a_full_choice_does_not_hold_up_those_after_it() -> None:
    bench = Bench([A, B], max_concurrency=6)
    bench.end(*bench.grant(avoid=A), "rate_limited")
    assert len(bench.grant(4, avoid=A)) == 2  # 6 / 2 x 0.7 = 2.1 is what B may have out now
    first, second = bench.wish(avoid=A), bench.wish()
    [lease] = bench.dispatch.exchange("w", (), [first, second]).leases
    assert (lease.request_id, lease.endpoint) == (second.request_id, A)


def test_a_lease_only_goes_where_its_client_goes() -> None:
    bench = Bench([A], max_concurrency=9)
    bench.join("v", [B, C], max_concurrency=9)
    assert {lease.endpoint for lease in bench.grant(3)} == {A}
    assert {lease.endpoint for lease in bench.grant(3, client="v")} == {B, C}


def test_a_client_that_wants_no_hedges_gets_none() -> None:
    bench = Bench()
    for _ in range(30):
        bench.serve(0.5)
    bench.health = JudgeHealthConfig(hedge=False)
    bench.join("v")
    [lease] = bench.grant(client="v")
    assert lease.hedge_after_s is None


# ----------------------------------------------------------------------------
# Messages


def test_a_request_asked_for_again_after_its_grant_gets_no_second_lease() -> None:
    bench = Bench()
    first, second = bench.wish(), bench.wish()
    assert len(bench.dispatch.exchange("w", (), [first]).leases) == 1
    [lease] = bench.dispatch.exchange("w", (), [first, second]).leases
    assert lease.request_id == second.request_id


def test_an_outcome_told_twice_or_of_an_unknown_lease_changes_nothing() -> None:
    bench = Bench(max_concurrency=2, max_cost_usd=1.0)
    first, _ = bench.grant(2, cost=0.1)
    bench.end(first, cost_usd=0.1)
    bench.end(first, cost_usd=0.1)
    bench.dispatch.exchange("w", [Outcome(lease_id=12345, kind="ok", cost_usd=0.5)], ())
    snapshot = bench.dispatch.snapshot("run")
    assert (snapshot.in_flight, snapshot.spent_usd) == (1, 0.1)


def test_leases_of_a_dispatch_that_died_are_not_taken_for_those_of_the_next() -> None:
    before, after = Bench(max_concurrency=1), Bench(max_concurrency=1)
    [old], [new] = before.grant(), after.grant()
    assert old.lease_id != new.lease_id
    after.end(old)
    assert after.dispatch.snapshot("run").in_flight == 1


def test_the_wait_is_told_by_what_stands_in_the_way() -> None:
    bench = Bench(max_concurrency=1, requests_per_minute=100)
    bench.grant()
    bench.clock.now = 40.0
    assert bench.dispatch.exchange("w", (), [bench.wish()]).next_in_s == pytest.approx(60.0)
    # That is when the lease is lost; what leaves the window at 65 s is not in the way.
    idle = bench.dispatch.exchange("w", (), ())
    assert (idle.leases, idle.next_in_s) == ((), None)


def test_a_snapshot_tells_what_is_out_and_what_waits() -> None:
    bench = Bench([A, B], max_concurrency=3)
    bench.grant(5)
    snapshot = bench.dispatch.snapshot("run")
    assert (snapshot.in_flight, snapshot.waiting, snapshot.concurrency_limit) == (3, 2, 3)
    assert (snapshot.num_endpoints, snapshot.num_endpoints_up) == (2, 2)
    assert snapshot.endpoints == {A: "closed", B: "closed"}
