"""How one endpoint is doing: circuit breaker, concurrency limit, latencies.

    closed --failures in a row, or a wrong model--> open --after a while--> half open
       ^                                             ^                        |
       |                                             +---- the probe fails ---+   (while x 2)
       +--------------------------- the probe succeeds -----------------------+

The concurrency limit follows AIMD: x 0.7 at a 429 (gentler than halving, since
one round trip of 429s is answered only once), + 1 for each round trip of
successes. A median latency of more than `SLOW` times the usual one takes x 0.9.
Time comes from the caller, so nothing here waits.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from rubric_rl.config.schema import JudgeHealthConfig

State = Literal["closed", "open", "half_open"]

ON_RATE_LIMIT = 0.7
ON_SLOWNESS = 0.9
SLOW = 2.5
"""Beyond this multiple of the usual median an endpoint counts as slow. Medians of `_BATCH`
log-normal latencies (sigma 1) spread by 18 %, so chance alone doesn't reach it."""

_BATCH = 50
_REMEMBERED_BATCHES = 40
_MIN_BATCHES = 4
_RECENT = 200
_MIN_FOR_HEDGE = 20


@dataclass(slots=True)
class EndpointHealth:
    """State of one endpoint; `ceiling` is the most requests it may ever have out."""

    name: str
    ceiling: int
    limit: float = 0.0
    """Requests that may be out now; starts at the ceiling."""
    state: State = "closed"
    is_wrong: bool = False
    """It answered as another model."""
    in_flight: int = 0
    grants: int = 0
    rate_limited: int = 0
    paused_until: float = 0.0
    open_until: float = 0.0
    _open_s: float = 0.0
    _failures: int = 0
    _decreased_at: float = float("-inf")
    _recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=_RECENT))
    _batch: list[float] = field(default_factory=list[float])
    _medians: deque[float] = field(default_factory=lambda: deque[float](maxlen=_REMEMBERED_BATCHES))

    def __post_init__(self) -> None:
        self.limit = self.limit or float(self.ceiling)

    # ------------------------------------------------------------------------
    # Asking

    def is_up(self, now: float) -> bool:
        """Closed, or due for its probe."""
        return self.state == "closed" or (self.state == "open" and now >= self.open_until)

    def has_room(self, now: float) -> bool:
        """Whether one more request may go out now."""
        if now < self.paused_until:
            return False
        if self.state == "closed":
            return self.in_flight < max(1, int(self.limit))
        return self.state == "open" and now >= self.open_until

    def next_in(self, now: float) -> float | None:
        """Seconds until it may have room by itself; None: only a report helps."""
        moments = [self.paused_until]
        if self.state == "open":
            moments.append(self.open_until)
        later = [moment - now for moment in moments if moment > now]
        return max(later) if later else None

    def hedge_after_s(self) -> float | None:
        """Seconds after which a reply is late: 4 x the median or 1.5 x the 95th percentile."""
        if len(self._recent) < _MIN_FOR_HEDGE:
            return None
        ordered = sorted(self._recent)
        return max(4 * ordered[len(ordered) // 2], 1.5 * ordered[int(len(ordered) * 0.95)])

    # ------------------------------------------------------------------------
    # Telling

    def granted(self) -> None:
        self.in_flight += 1
        self.grants += 1
        if self.state == "open":
            self.state = "half_open"  # this one is the probe

    def succeeded(self, latency_s: float, *, adaptive: bool) -> None:
        self._closes()
        self._recent.append(latency_s)
        self._batch.append(latency_s)
        if adaptive:
            self.limit = min(float(self.ceiling), self.limit + 1 / max(1.0, self.limit))
        if len(self._batch) >= _BATCH:
            self._end_batch(adaptive)

    def was_rate_limited(
        self, granted_at: float, retry_after_s: float | None, now: float, *, adaptive: bool
    ) -> None:
        self.rate_limited += 1
        self._closes()  # it is there, and says so
        if retry_after_s is not None:
            self.paused_until = max(self.paused_until, now + retry_after_s)
        # Requests that were out when the limit was lowered tell nothing of the new one.
        if adaptive and granted_at > self._decreased_at:
            self.limit = max(1.0, self.limit * ON_RATE_LIMIT)
            self._decreased_at = now

    def answered(self) -> None:
        """It refused a request that was at fault itself, which shows that it is well."""
        self._closes()

    def failed(self, config: JudgeHealthConfig, now: float, *, wrong: bool = False) -> None:
        self._failures += 1
        self.is_wrong = self.is_wrong or wrong
        if wrong or self.state == "half_open" or self._failures >= config.failures_to_open:
            self._opens(config, now)

    def gave_up_probe(self, now: float) -> None:
        """The probe ended without telling anything: another may go out."""
        if self.state == "half_open":
            self.state, self.open_until = "open", now

    def restore(self, limit: float, open_for_s: float, now: float) -> None:
        """Go on from a checkpoint."""
        self.limit = min(float(self.ceiling), max(1.0, limit))
        if open_for_s > 0:
            self.state, self.open_until = "open", now + open_for_s

    def _opens(self, config: JudgeHealthConfig, now: float) -> None:
        again = self.state == "half_open"
        self._open_s = min(config.max_open_s, self._open_s * 2 if again else config.open_s)
        self.state, self.open_until = "open", now + self._open_s

    def _closes(self) -> None:
        if self.state != "closed":
            self.state = "closed"
        self._failures, self.is_wrong = 0, False

    def _end_batch(self, adaptive: bool) -> None:
        median = statistics.median(self._batch)
        self._batch.clear()
        usual = statistics.median(self._medians) if len(self._medians) >= _MIN_BATCHES else None
        if adaptive and usual is not None and median > SLOW * usual:
            self.limit = max(1.0, self.limit * ON_SLOWNESS)
        self._medians.append(median)

    def in_words(self) -> str:
        """As in `open (wrong model)`."""
        return f"{self.state.replace('_', ' ')}{' (wrong model)' if self.is_wrong else ''}"
