"""How one endpoint is doing: circuit breaker, concurrency limit, latencies.

    closed --failures in a row, or a wrong model--> open --after a while--> half open
       ^                                             ^                        |
       |                                             +---- the probe fails ---+   (while x 2)
       +--------------------------- the probe succeeds -----------------------+

One request at a time is the probe, and while the breaker isn't closed only its
outcome counts: what was sent before tells of a time that is over. Time comes
from the caller, so nothing here waits.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from rubric_rl.config.judge import JudgeHealthConfig
from rubric_rl.judging.leases import Outcome
from rubric_rl.judging.limits import ConcurrencyLimit, Limits

State = Literal["closed", "open", "half_open"]

SLOW = 2.5
"""Beyond this multiple of the usual median an endpoint counts as slow. Medians of `_BATCH`
log-normal latencies (sigma 1) spread by 18 %, so that chance reaches it about once in a
million batches."""

_BATCH = 50
_REMEMBERED_BATCHES = 40
_MIN_BATCHES = 4
_RECENT = 200
_MIN_FOR_HEDGE = 20
# Latencies after which the time of a hedge is computed anew.
_HEDGE_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """What a checkpoint keeps of one endpoint. Times are seconds from when it was made."""

    limit: float
    is_closed: bool
    is_wrong: bool
    open_for_s: float
    open_s: float
    paused_for_s: float
    rate_limited: int


@dataclass(slots=True)
class Breaker:
    """Circuit breaker."""

    state: State = "closed"
    is_wrong: bool = False
    """It answered as another model, and has not answered as the right one since."""
    open_until: float = 0.0
    open_s: float = 0.0
    """How long it is open this time."""
    _num_failures: int = 0
    """In a row."""
    _probe: int | None = None

    def is_up(self, now: float) -> bool:
        """Closed, or due for its probe."""
        return self.state == "closed" or (self.state == "open" and now >= self.open_until)

    def granted(self, lease_id: int) -> None:
        if self.state == "open":
            self.state, self._probe = "half_open", lease_id

    def succeeded(self, lease_id: int) -> None:
        if self._counts(lease_id):
            self.state, self.is_wrong = "closed", False
            self._num_failures = 0

    def answered(self, lease_id: int, now: float) -> None:
        """It said no, which shows that it is there, but not which model it serves."""
        if self.is_wrong and lease_id == self._probe and self.state == "half_open":
            self.state, self.open_until = "open", now + self.open_s
        else:
            self.succeeded(lease_id)

    def failed(self, lease_id: int, rules: JudgeHealthConfig, now: float) -> None:
        if self._counts(lease_id):
            self._num_failures += 1
            if self.state == "half_open" or self._num_failures >= rules.failures_to_open:
                self._open(rules, now)

    def was_wrong(self, lease_id: int, rules: JudgeHealthConfig, now: float) -> None:
        self.is_wrong = True
        if self._counts(lease_id):
            self._open(rules, now)

    def told_nothing(self, lease_id: int, now: float) -> None:
        """If that was the probe, another may go out."""
        if self.state == "half_open" and lease_id == self._probe:
            self.state, self.open_until = "open", now

    def restore(self, state: EndpointState, now: float) -> None:
        """Take the worse of this state and another."""
        self.is_wrong = self.is_wrong or state.is_wrong
        if state.is_closed or self.state == "half_open":
            return
        self.state, self._probe = "open", None
        self.open_until = max(self.open_until, now + state.open_for_s)
        self.open_s = max(self.open_s, state.open_s)

    def _counts(self, lease_id: int) -> bool:
        return self.state == "closed" or (self.state == "half_open" and lease_id == self._probe)

    def _open(self, rules: JudgeHealthConfig, now: float) -> None:
        again = self.state == "half_open"
        self.open_s = min(rules.max_open_s, self.open_s * 2 if again else rules.open_s)
        self.state, self.open_until = "open", now + self.open_s
        self._num_failures = 0


@dataclass(slots=True)
class Latencies:
    """What requests took lately, and whether that is more than usual."""

    hedge_after_s: float | None = None
    """4 x the median or 1.5 x the 95th percentile, whichever is later. A second request costs
    money and a place among those out. At the bare 95th percentile one request in 20 would be
    sent twice although nothing is wrong; so it is one in 50 where tails are long (log-normal,
    sigma 1), and hardly any where they are short."""
    _recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=_RECENT))
    _num_new: int = 0
    _batch: list[float] = field(default_factory=list[float])
    _batch_since: float = math.inf
    _medians: deque[float] = field(default_factory=lambda: deque[float](maxlen=_REMEMBERED_BATCHES))

    def add(self, latency_s: float) -> None:
        """A request that was answered."""
        self._recent.append(latency_s)
        self._num_new += 1
        is_first = self.hedge_after_s is None and len(self._recent) >= _MIN_FOR_HEDGE
        if is_first or self._num_new >= _HEDGE_EVERY:
            self._num_new = 0
            self.hedge_after_s = self._late()

    def is_slow(self, latency_s: float, granted_at: float) -> float | None:
        """At the end of a slow batch: when the first of its requests was granted."""
        self._batch.append(latency_s)
        self._batch_since = min(self._batch_since, granted_at)
        if len(self._batch) < _BATCH:
            return None
        median, since = statistics.median(self._batch), self._batch_since
        usual = statistics.median(self._medians) if len(self._medians) >= _MIN_BATCHES else None
        self._batch.clear()
        self._batch_since = math.inf
        self._medians.append(median)
        return since if usual is not None and median > SLOW * usual else None

    def _late(self) -> float | None:
        if len(self._recent) < _MIN_FOR_HEDGE:
            return None
        ordered = sorted(self._recent)
        p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
        return max(4 * ordered[len(ordered) // 2], 1.5 * p95)


@dataclass(slots=True, kw_only=True)
class EndpointHealth:
    """State of one endpoint."""

    name: str
    limit: ConcurrencyLimit
    breaker: Breaker = field(default_factory=Breaker)
    latencies: Latencies = field(default_factory=Latencies)
    in_flight: int = 0
    num_grants: int = 0
    rate_limited: int = 0
    paused_until: float = -math.inf

    # ------------------------------------------------------------------------
    # Asking

    def is_up(self, now: float) -> bool:
        """Closed, or due for its probe; a pause that a 429 asked for is no fault."""
        return self.breaker.is_up(now)

    def room(self, now: float) -> int:
        """Requests that may go out now."""
        if now < self.paused_until or not self.breaker.is_up(now):
            return 0
        if self.breaker.state == "open":
            return 1  # the probe
        return max(0, self.limit.whole - self.in_flight)

    @property
    def load(self) -> float:
        return self.in_flight / self.limit.whole

    def next_in(self, now: float) -> float | None:
        """Seconds until it may have room by itself; None: only a report helps."""
        until = self.paused_until
        if self.breaker.state == "open":
            until = max(until, self.breaker.open_until)
        return until - now if until > now else None

    def in_words(self, now: float) -> str:
        """As in `open (wrong model)`."""
        words = self.breaker.state.replace("_", " ")
        if self.breaker.is_wrong:
            words += " (wrong model)"
        if now < self.paused_until:
            words += f", paused for {self.paused_until - now:.0f} s"
        return words

    # ------------------------------------------------------------------------
    # Telling

    def granted(self, lease_id: int) -> None:
        self.in_flight += 1
        self.num_grants += 1
        self.breaker.granted(lease_id)

    def ended(
        self,
        outcome: Outcome,
        *,
        granted_at: float,
        hedge_after_s: float | None,
        fair_share: float,
        limits: Limits,
        now: float,
    ) -> None:
        """What came of a lease that was granted at `granted_at`.

        `fair_share`: requests that it would have out if all endpoints had as many.
        """
        lease_id, in_use = outcome.lease_id, max(float(self.in_flight), fair_share)
        self.in_flight -= 1
        match outcome.kind:
            case "ok":
                self.breaker.succeeded(lease_id)
                self.succeeded(outcome.latency_s, adaptive=limits.adaptive)
                self._took(outcome.latency_s, granted_at, limits, now)
            case "rate_limited":
                self._was_rate_limited(outcome, granted_at, in_use, limits, now)
            case "refused":
                self.breaker.answered(lease_id, now)
            case "failed" | "timeout":
                self.breaker.failed(lease_id, limits.health, now)
            case "wrong_judge":
                self.breaker.was_wrong(lease_id, limits.health, now)
            case "cancelled" | "unused":
                self.breaker.told_nothing(lease_id, now)
                # Overtaken by its hedge: it would have taken even longer. Without this an
                # endpoint that hangs would never look slow.
                if hedge_after_s is not None and outcome.latency_s >= hedge_after_s:
                    self._took(outcome.latency_s, granted_at, limits, now)

    def succeeded(self, latency_s: float, *, adaptive: bool) -> None:
        """A request was answered after so long."""
        self.latencies.add(latency_s)
        if adaptive:
            self.limit.succeeded()

    def _took(self, latency_s: float, granted_at: float, limits: Limits, now: float) -> None:
        slow_since = self.latencies.is_slow(latency_s, granted_at)
        if slow_since is not None and limits.adaptive:
            self.limit.slowed_down(slow_since, now)

    def _was_rate_limited(
        self, outcome: Outcome, granted_at: float, in_use: float, limits: Limits, now: float
    ) -> None:
        self.rate_limited += 1
        self.breaker.answered(outcome.lease_id, now)
        if outcome.retry_after_s is not None:
            self.paused_until = max(self.paused_until, now + outcome.retry_after_s)
        if limits.adaptive:
            self.limit.was_rate_limited(granted_at, now, in_use)

    # ------------------------------------------------------------------------
    # Saving

    def state(self, now: float) -> EndpointState:
        breaker = self.breaker
        return EndpointState(
            limit=self.limit.value,
            is_closed=breaker.state == "closed",
            is_wrong=breaker.is_wrong,
            open_for_s=max(0.0, breaker.open_until - now),
            open_s=breaker.open_s,
            paused_for_s=max(0.0, self.paused_until - now),
            rate_limited=self.rate_limited,
        )

    def restore(self, state: EndpointState, now: float) -> None:
        """Take the stricter of what is known here and there."""
        self.limit.value = min(self.limit.value, max(1.0, state.limit))
        self.breaker.restore(state, now)
        if state.paused_for_s > 0:
            self.paused_until = max(self.paused_until, now + state.paused_for_s)
        self.rate_limited = max(self.rate_limited, state.rate_limited)


def least_loaded(endpoints: Iterable[EndpointHealth], now: float) -> EndpointHealth | None:
    """Of those with room the one with the least load, or of equal ones the fewest grants."""
    free = [endpoint for endpoint in endpoints if endpoint.room(now)]
    return min(free, key=lambda endpoint: (endpoint.load, endpoint.num_grants), default=None)
