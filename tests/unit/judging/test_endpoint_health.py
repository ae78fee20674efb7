"""One endpoint's breaker, latencies and limit, by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeHealthConfig
from rubric_rl.judging.endpoint_health import Breaker, EndpointHealth, Latencies
from rubric_rl.judging.leases import Outcome, OutcomeKind
from rubric_rl.judging.limits import ConcurrencyLimit, strictest

RULES = JudgeHealthConfig(failures_to_open=3, open_s=5.0, max_open_s=20.0)
LIMITS = strictest([JudgeBudgetConfig()], [RULES])


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for lease_id in range(3):
        breaker.failed(lease_id, RULES, at)
    return breaker


# ----------------------------------------------------------------------------
# Breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker()
    for lease_id, fails in enumerate([True, True, False, True, True]):
        if fails:
            breaker.failed(lease_id, RULES, 0.0)
        else:
            breaker.succeeded(lease_id)
    assert breaker.state == "closed"
    breaker.failed(9, RULES, 0.0)
    assert (breaker.state, breaker.open_until) == ("open", 5.0)


def test_it_is_due_for_exactly_one_probe_after_its_time() -> None:
    breaker = opened()
    assert not breaker.is_up(4.9)
    assert breaker.is_up(5.0)
    breaker.granted(10)
    assert (breaker.state, breaker.is_up(5.0)) == ("half_open", False)


def test_each_failed_probe_doubles_the_time_up_to_the_longest() -> None:
    breaker, now = opened(), 0.0
    waits = []
    for probe in range(10, 14):
        waits.append(breaker.open_until - now)
        now = breaker.open_until
        breaker.granted(probe)
        breaker.failed(probe, RULES, now)
    assert waits == [5.0, 10.0, 20.0, 20.0]


def test_after_a_good_probe_the_next_time_is_the_first_again() -> None:
    breaker = opened()
    for probe, good in ((10, False), (11, True)):
        breaker.granted(probe)
        if good:
            breaker.succeeded(probe)
        else:
            breaker.failed(probe, RULES, 5.0)
    assert breaker.state == "closed"
    for lease_id in range(20, 23):
        breaker.failed(lease_id, RULES, 100.0)
    assert breaker.open_until == 105.0


def test_what_was_sent_before_it_opened_counts_no_more() -> None:
    breaker = opened()
    breaker.succeeded(7)
    assert breaker.state == "open"
    breaker.failed(8, RULES, 3.0)
    assert breaker.open_until == 5.0
    breaker.granted(10)
    breaker.succeeded(7)
    breaker.failed(8, RULES, 6.0)
    breaker.told_nothing(9, 6.0)
    assert breaker.state == "half_open"  # the probe is still out, and is the only one


def test_a_probe_that_told_nothing_makes_room_for_another_at_once() -> None:
    breaker = opened()
    breaker.granted(10)
    breaker.told_nothing(10, 6.0)
    assert breaker.is_up(6.0)


def test_a_wrong_model_opens_it_at_once_and_only_the_right_one_clears_it() -> None:
    breaker = Breaker()
    breaker.was_wrong(1, RULES, 0.0)
    assert (breaker.state, breaker.is_wrong, breaker.open_until) == ("open", True, 5.0)
    breaker.granted(10)
    breaker.answered(10, 5.0)  # a 429 doesn't say which model is there
    assert (breaker.state, breaker.is_wrong, breaker.open_until) == ("open", True, 10.0)
    breaker.granted(11)
    breaker.succeeded(11)
    assert (breaker.state, breaker.is_wrong) == ("closed", False)


def test_an_answer_that_says_no_closes_an_endpoint_that_had_failed() -> None:
    breaker = opened()
    breaker.granted(10)
    breaker.answered(10, 5.0)
    assert breaker.state == "closed"


# ----------------------------------------------------------------------------
# Latencies


def test_a_hedge_needs_twenty_latencies() -> None:
    latencies = Latencies()
    for _ in range(19):
        latencies.add(0.5)
    assert latencies.hedge_after_s is None
    latencies.add(0.5)
    assert latencies.hedge_after_s == pytest.approx(2.0)  # 4 x 0.5


def test_a_hedge_waits_longer_than_the_tail() -> None:
    latencies = Latencies()
    for index in range(100):
        latencies.add(10.0 if index % 10 == 0 else 1.0)
    assert latencies.hedge_after_s == pytest.approx(15.0)  # 1.5 x the 95th percentile


@pytest.mark.parametrize(("sigma", "most"), [(1.0, 0.03), (0.3, 0.001)])
def test_few_healthy_requests_are_sent_twice(sigma: float, most: float) -> None:
    rng, latencies, late = random.Random(0), Latencies(), 0
    for _ in range(20_000):
        latency = rng.lognormvariate(0.0, sigma)
        late += latencies.hedge_after_s is not None and latency > latencies.hedge_after_s
        latencies.add(latency)
    assert late / 20_000 <= most


def test_log_normal_tails_are_never_taken_for_slowness() -> None:
    for seed in range(20):
        rng, latencies = random.Random(seed), Latencies()
        slow = [latencies.is_slow(rng.lognormvariate(0.0, 1.0), 0.0) for _ in range(10_000)]
        assert slow == [None] * 10_000


def test_a_batch_of_three_times_the_usual_median_is_slow_and_tells_since_when() -> None:
    latencies = Latencies()
    for index in range(200):
        assert latencies.is_slow(1.0, float(index)) is None
    told = [latencies.is_slow(3.0, 1000.0 + index) for index in range(50)]
    assert told == [None] * 49 + [1000.0]


# ----------------------------------------------------------------------------
# All of it together


class Endpoint:
    """An endpoint that is granted leases and told what came of them."""

    def __init__(self, ceiling: int = 100, *, adaptive: bool = True) -> None:
        self.health = EndpointHealth(name="a", limit=ConcurrencyLimit(ceiling))
        self.limits = replace(LIMITS, adaptive=adaptive)
        self.now, self.last = 0.0, 0

    def grant(self, count: int = 1) -> list[int]:
        ids = list(range(self.last + 1, self.last + count + 1))
        self.last += count
        for lease_id in ids:
            self.health.granted(lease_id)
        return ids

    def end(
        self,
        lease_id: int,
        kind: OutcomeKind = "ok",
        *,
        granted_at: float,
        hedge_after_s: float | None = None,
        **fields: float,
    ) -> None:
        self.health.ended(
            Outcome(lease_id=lease_id, kind=kind, **fields),
            granted_at=granted_at,
            hedge_after_s=hedge_after_s,
            fair_share=1.0,
            limits=self.limits,
            now=self.now,
        )

    def round_trip(self, count: int, latency_s: float) -> None:
        ids, began = self.grant(count), self.now
        self.now += latency_s
        for lease_id in ids:
            self.end(lease_id, granted_at=began, latency_s=latency_s)


def test_a_slow_round_trip_lowers_the_limit_once_however_many_batches_it_holds() -> None:
    endpoint = Endpoint(ceiling=1000)
    for _ in range(5):
        endpoint.round_trip(100, 0.4)
    endpoint.round_trip(1000, 4.0)
    assert 900 <= endpoint.health.limit.whole <= 901  # x 0.9, and the successes after it


def test_without_adaption_neither_429s_nor_slowness_lower_the_limit() -> None:
    endpoint = Endpoint(ceiling=10, adaptive=False)
    for _ in range(5):
        endpoint.round_trip(100, 0.4)
    endpoint.round_trip(100, 4.0)
    [lease_id] = endpoint.grant()
    endpoint.end(lease_id, "rate_limited", granted_at=endpoint.now)
    assert endpoint.health.limit.whole == 10


def test_an_endpoint_that_hangs_looks_slow_although_its_hedges_are_what_is_answered() -> None:
    endpoint = Endpoint(ceiling=10)
    for _ in range(5):
        endpoint.round_trip(50, 0.4)
    began = endpoint.now
    endpoint.now += 2.0
    for lease_id in endpoint.grant(50):
        endpoint.end(
            lease_id, "cancelled", granted_at=began + 0.1, hedge_after_s=1.6, latency_s=2.0
        )
    assert endpoint.health.limit.whole == 9
    # Those given up for other reasons say nothing.
    for lease_id in endpoint.grant(50):
        endpoint.end(lease_id, "cancelled", granted_at=5e3, hedge_after_s=9.0, latency_s=2.0)
    assert endpoint.health.limit.whole == 9


def test_a_pause_ends_when_the_server_said_and_counts_as_up() -> None:
    endpoint = Endpoint(ceiling=4)
    [lease_id] = endpoint.grant()
    endpoint.end(lease_id, "rate_limited", granted_at=0.0, retry_after_s=30.0)
    health = endpoint.health
    assert (health.room(29.9), health.is_up(29.9), health.next_in(10.0)) == (0, True, 20.0)
    assert health.in_words(10.0) == "closed, paused for 20 s"
    assert health.room(30.0) > 0
    assert health.next_in(30.0) is None


def test_a_saved_endpoint_goes_on_where_it_was() -> None:
    endpoint = Endpoint(ceiling=10)
    for lease_id in endpoint.grant(3):
        endpoint.end(lease_id, "timeout", granted_at=0.0)
    endpoint.now = 5.0
    [probe] = endpoint.grant()
    endpoint.end(probe, "wrong_judge", granted_at=5.0)
    endpoint.now = 8.0
    other = EndpointHealth(name="a", limit=ConcurrencyLimit(10))
    other.restore(endpoint.health.state(8.0), 1000.0)
    assert other.in_words(1000.0) == "open (wrong model)"
    assert other.next_in(1000.0) == pytest.approx(7.0)  # of 10, since 5.0
    other.granted(1)
    other.breaker.failed(1, RULES, 1007.0)
    assert other.breaker.open_until == pytest.approx(1027.0)  # the doubling goes on too


def test_a_probe_that_was_out_when_it_was_saved_is_sent_again() -> None:
    endpoint = Endpoint()
    for lease_id in endpoint.grant(3):
        endpoint.end(lease_id, "failed", granted_at=0.0)
    endpoint.now = 5.0
    endpoint.grant()
    other = EndpointHealth(name="a", limit=ConcurrencyLimit(100))
    other.restore(endpoint.health.state(6.0), 50.0)
    assert other.room(50.0) == 1
