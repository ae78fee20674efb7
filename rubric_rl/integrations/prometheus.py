"""What the reward server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rubric_rl.judging.graded_rows import GradedRow

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
# Those below 0 are in the first: with a bound below 0 the library gives no sum.
_REWARDS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_PREFIX = "rubric_rl_"


class ServerMetrics:
    """One server's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "HTTP requests", "path", "status")
        self.request_s = self._histogram(
            "request_seconds", "Time to answer a request", _SECONDS, "path"
        )
        self.pending = Gauge(
            f"{_PREFIX}pending_answers",
            "Answers that wait or are judged",
            registry=self.registry,
        )
        self._answers = self._counter("answers", "Answers by outcome", "outcome")
        self._unknown = self._counter("unknown_verdicts", "UNKNOWN verdicts", "cause")
        self._reward = self._histogram("reward", "Rewards of scored answers", _REWARDS)
        self._judge_s = self._histogram("judge_seconds", "Time to judge one answer", _SECONDS)
        self._calls = self._counter("judge_calls", "Requests to the LLM judge")
        self._tokens = self._counter("judge_tokens", "Tokens of these requests")
        self._cost = self._counter("judge_cost_usd", "Price of these tokens")
        self._cached = self._counter("cached_verdicts", "Verdicts from the cache")

    def add(self, rows: Sequence[GradedRow | None]) -> None:
        """Count answers; None is one that ran out of time."""
        for row in rows:
            scored = row is not None and row.reward is not None
            self._answers.labels("scored" if scored else "unscored").inc()
            if row is not None:
                self._add(row)

    def _add(self, row: GradedRow) -> None:
        if row.reward is not None:
            self._reward.observe(row.reward)
        for verdict in row.verdicts:
            if verdict.cause is not None:
                self._unknown.labels(verdict.cause.value).inc()
        self._judge_s.observe(row.latency_s)
        self._calls.inc(row.usage.calls)
        self._tokens.inc(row.usage.tokens)
        self._cost.inc(row.usage.cost_usd)
        self._cached.inc(row.usage.cached_verdicts)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", what, labels, buckets=buckets, registry=self.registry)
