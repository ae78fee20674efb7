"""What a pool tells Ray's metrics, for Ray's dashboard and whatever scrapes its nodes.

    rubric_rl_pool_queued           samples that wait for a place at a worker
    rubric_rl_pool_in_flight        samples that a worker is at
    rubric_rl_pool_worker_up        1; 0 once a worker died or fell silent, until it answers again
    rubric_rl_pool_samples_total    samples that left the pool, by outcome
    rubric_rl_unknown_verdicts_total    by cause

Ray puts `ray_` before each name. Every one is told by run and pool; a change is seen some
ten seconds later.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from ray.util.metrics import Counter, Gauge

from rubric_rl.types import Judgement

PoolName = Literal["judge", "rollout"]
Outcome = Literal["ok", "timeout", "worker_died", "cancelled", "failed"]


class InHand:
    """Samples that one worker was given."""

    def __init__(self, number: int, left: Callable[[int, Outcome], None]) -> None:
        self._number = number
        self._left = left

    def left(self, outcome: Outcome) -> None:
        """One more of them is no longer with the worker."""
        self._number -= 1
        self._left(1, outcome)

    def drop(self, outcome: Outcome) -> None:
        """The rest is no longer with the worker."""
        number, self._number = self._number, 0
        self._left(number, outcome)


class PoolMetrics:
    """The figures of one pool."""

    def __init__(
        self, pool: PoolName, workers: Iterable[str], *, run: str, places: int | None = None
    ) -> None:
        """`places`: samples that one worker is at at once; None: all that it was given."""
        self._pool, self._run, self._places = pool, run, places
        self._workers = tuple(workers)
        self._num_waiting = 0
        self._given: Tally[str] = Tally()
        self._queued = Gauge(*_spec("pool_queued", "Samples that wait for a place at a worker"))
        self._in_flight = Gauge(*_spec("pool_in_flight", "Samples that a worker is at", "worker"))
        self._up = Gauge(*_spec("pool_worker_up", "Whether a worker answers", "worker"))
        self._samples = Counter(*_spec("pool_samples_total", "Samples that left", "outcome"))
        self._unknown = Counter(*_spec("unknown_verdicts_total", "UNKNOWN verdicts", "cause"))
        for worker in self._workers:
            self.worker_up(worker, True)
            self._give(worker, 0)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A sample that is with no worker yet, for the time of the block."""
        self._wait(1)
        try:
            yield
        finally:
            self._wait(-1)

    @contextmanager
    def at(self, worker: str, number: int = 1) -> Iterator[InHand]:
        """Samples that a worker is given, for the time of the block at most.

        Those that it still has when the block ends are cancelled or have failed.
        """
        in_hand = InHand(number, lambda num, outcome: self._leave(worker, num, outcome))
        self._give(worker, number)
        rest: Outcome = "failed"
        try:
            yield in_hand
        except asyncio.CancelledError:
            rest = "cancelled"
            raise
        finally:
            in_hand.drop(rest)

    def worker_up(self, worker: str, is_up: bool) -> None:
        """Whether it answers."""
        self._up.set(float(is_up), tags=self._tags(worker=worker))

    def judged(self, judgement: Judgement) -> None:
        """Count its UNKNOWN verdicts."""
        for verdict in judgement.verdicts:
            if verdict.cause is not None:
                self._unknown.inc(1.0, tags=self._tags(cause=verdict.cause.value))

    def _wait(self, number: int) -> None:
        self._num_waiting += number
        self._show_queue()

    def _give(self, worker: str, number: int) -> None:
        self._given[worker] += number
        self._in_flight.set(float(self._at_work(worker)), tags=self._tags(worker=worker))
        self._show_queue()

    def _at_work(self, worker: str) -> int:
        given = self._given[worker]
        return given if self._places is None else min(given, self._places)

    def _show_queue(self) -> None:
        queued = sum(self._given[worker] - self._at_work(worker) for worker in self._workers)
        self._queued.set(float(self._num_waiting + queued), tags=self._tags())

    def _leave(self, worker: str, number: int, outcome: Outcome) -> None:
        self._give(worker, -number)
        if number > 0:
            self._samples.inc(float(number), tags=self._tags(outcome=outcome))

    def _tags(self, **more: str) -> dict[str, str]:
        return {"run": self._run, "pool": self._pool, **more}


def _spec(name: str, description: str, *tags: str) -> tuple[str, str, tuple[str, ...]]:
    """What a metric is made of."""
    return f"rubric_rl_{name}", description, ("run", "pool", *tags)
