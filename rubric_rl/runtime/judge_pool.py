"""The judge workers as one judge."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
import ray.exceptions

from rubric_rl.types import FailureCause, Judgement, JudgeRequest, Verdict, VerdictValue

logger = logging.getLogger(__name__)


class RayJudgePool:
    """Hands each sample to the least busy worker.

    A worker that dies is started again by Ray and its samples go to another; a
    sample that meets two dying workers gets verdicts UNKNOWN, never a score.
    """

    def __init__(
        self,
        workers: Mapping[str, Any],
        *,
        max_in_flight_per_worker: int,
        timeout_s: float,
    ) -> None:
        """`workers`: actor handles by label."""
        self._workers = workers
        self._assigned: Counter[str] = Counter()
        self._down: set[str] = set()
        # A sample in hand finds its least busy worker free. Only one that lost its
        # worker may have to wait for a place at another.
        self._in_hand = asyncio.Semaphore(max_in_flight_per_worker * len(workers))
        self._places = {label: asyncio.Semaphore(max_in_flight_per_worker) for label in workers}
        self._timeout_s = timeout_s

    async def judge(self, request: JudgeRequest) -> Judgement:
        """See `JudgePool.judge`. What a judge raises is a bug, and is raised here."""
        async with self._in_hand:
            first = self._least_busy(exclude=None)
            judgement = await self._ask(first, request)
            if judgement is None:
                judgement = await self._ask(self._least_busy(exclude=first), request)
            return judgement or _unjudged(request, FailureCause.WORKER_DIED)

    def _least_busy(self, exclude: str | None) -> str:
        candidates = [label for label in self._workers if label != exclude] or list(self._workers)
        return min(candidates, key=lambda label: self._assigned[label])

    async def _ask(self, label: str, request: JudgeRequest) -> Judgement | None:
        """None if the worker died."""
        self._assigned[label] += 1
        try:
            async with self._places[label]:
                judgement = await self._call(label, request)
        except ray.exceptions.RayActorError as err:
            self._report_death(label, err)
            return None
        finally:
            self._assigned[label] -= 1
        self._down.discard(label)
        return judgement

    async def _call(self, label: str, request: JudgeRequest) -> Judgement:
        reply = self._workers[label].judge.remote(request)
        try:
            return await asyncio.wait_for(_result(reply), self._timeout_s)
        except ray.exceptions.RayTaskError:
            raise  # even if what the judge raised is itself a TimeoutError
        except TimeoutError:
            ray.cancel(reply)
            logger.warning("%s took longer than %.0f s for one sample", label, self._timeout_s)
            return _unjudged(request, FailureCause.TIMEOUT)
        except asyncio.CancelledError:
            ray.cancel(reply)  # the worker's own calls to an endpoint end with it
            raise

    def _report_death(self, label: str, err: ray.exceptions.RayActorError) -> None:
        """Warn once, not for each sample that was with the worker."""
        level = logging.INFO if label in self._down else logging.WARNING
        self._down.add(label)
        logger.log(
            level,
            "%s died while judging; its samples go to another: %s",
            label,
            str(err).splitlines()[0],
        )


async def _result(ref: Any) -> Judgement:
    return await ref


def _unjudged(request: JudgeRequest, cause: FailureCause) -> Judgement:
    verdicts = tuple(
        Verdict(cid=c.cid, value=VerdictValue.UNKNOWN, reason="no answer of the judge", cause=cause)
        for c in request.rubric.criteria
    )
    return Judgement(
        rubric_id=request.rubric.rubric_id,
        rubric_version=request.rubric.version,
        judge_id="none",
        template_hash="",
        mode="none",
        verdicts=verdicts,
        num_calls=0,
        prompt_tokens=0,
        completion_tokens=0,
        latency_s=0.0,
    )
