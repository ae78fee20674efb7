"""The judge workers as one judge."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from rubric_rl.controller.interfaces import JudgePoolStatus
from rubric_rl.errors import RunFolderError, WorkerDiedError
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.dispatch import DispatchSnapshot
from rubric_rl.runtime.judge_budget import Membership
from rubric_rl.runtime.pool_metrics import InHand, PoolMetrics
from rubric_rl.types import FailureCause, Judgement, JudgeRequest, JudgeUsage, Verdict, VerdictValue

logger = logging.getLogger(__name__)

# With a second more between each: a process that Ray starts anew is there in a few seconds.
_STATUS_ATTEMPTS = 6
_STATUS_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAccount:
    """A run's account with the cluster's judge budget."""

    actor: Callable[[], Any]
    """Gives the handle of the `judge_budget.JudgeBudget` that is there now."""
    membership: Membership
    """Of the driver, which takes no leases itself."""


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
        account: BudgetAccount | None = None,
        served_model: str = "",
        cache_dir: Path | None = None,
        servers: Sequence[Any] = (),
        run: str = "",
    ) -> None:
        """`workers`: actor handles by label. Without `account` all judging is by rules.

        `servers`: handles of the judge's own servers, which live as long as the pool.
        `run`: whose pool it is, in Ray's metrics.
        """
        self._servers = tuple(servers)
        self._workers = workers
        self._account = account
        self._served_model = served_model
        self._cache = None if cache_dir is None else VerdictCache(cache_dir)
        self._limiter_state = ""
        self._metrics = PoolMetrics("judge", workers, run=run, places=max_in_flight_per_worker)
        self._assigned: Counter[str] = Counter()
        self._down: set[str] = set()
        # A sample in hand finds its least busy worker free. Only one that lost its
        # worker may have to wait for a place at another.
        self._in_hand = asyncio.Semaphore(max_in_flight_per_worker * len(workers))
        self._places = {label: asyncio.Semaphore(max_in_flight_per_worker) for label in workers}
        self._timeout_s = timeout_s

    async def judge(self, request: JudgeRequest) -> Judgement:
        """See `JudgePool.judge`. What a judge raises is a bug, and is raised here."""
        with self._metrics.waiting():
            await self._in_hand.acquire()
        try:
            first = self._least_busy(exclude=None)
            judgement = await self._ask(first, request)
            if judgement is None:
                judgement = await self._ask(self._least_busy(exclude=first), request)
        finally:
            self._in_hand.release()
        judgement = judgement or _unjudged(request, FailureCause.WORKER_DIED)
        self._metrics.judged(judgement)
        return judgement

    async def status(self) -> JudgePoolStatus:
        """See `JudgePool.status`. Raises WorkerDiedError if the budget stays out of reach."""
        if self._account is None:
            return _RULES_ONLY
        snapshot = await self._snapshot(self._account)
        return JudgePoolStatus(
            spent_usd=snapshot.spent_usd,
            concurrency_limit=snapshot.concurrency_limit,
            num_endpoints=snapshot.num_endpoints,
            num_endpoints_up=snapshot.num_endpoints_up,
            rate_limited=snapshot.rate_limited,
            cache_bytes=0 if self._cache is None else self._cache.size_bytes,
            limiter_state=json.dumps(
                {"served_model": self._served_model, "limiter": self._limiter_state}
            ),
        )

    async def _snapshot(self, account: BudgetAccount) -> DispatchSnapshot:
        """How the budget stands. Should it have been started anew, it is told what was known."""
        failure = ""
        for attempt in range(_STATUS_ATTEMPTS):
            await asyncio.sleep(attempt)
            try:
                async with asyncio.timeout(_STATUS_TIMEOUT_S):
                    actor, name = account.actor(), account.membership.account
                    await actor.join.remote(account.membership)
                    if self._limiter_state:
                        await actor.restore.remote(name, self._limiter_state)
                    snapshot = await actor.snapshot.remote(name)
                    self._limiter_state = await actor.to_json.remote(name)
            except ray.exceptions.RayActorError as err:
                failure = str(err).splitlines()[0]
            except TimeoutError:
                failure = f"no answer in {_STATUS_TIMEOUT_S:.0f} s"
            else:
                return snapshot
        raise WorkerDiedError(f"the judge budget's process can't be reached: {failure}")

    async def restore(self, limiter_state: str) -> None:
        """See `JudgePool.restore`."""
        if self._account is None or not limiter_state:
            return
        state = json.loads(limiter_state)
        if state["served_model"] != self._served_model:
            raise RunFolderError(
                f"the checkpoint's samples were judged by {state['served_model']!r} and the "
                f"endpoints now answer as {self._served_model!r}: rewards would change in the "
                "middle of the run. Serve the model of before, or start anew with another run.dir"
            )
        self._limiter_state = state["limiter"]
        await self.status()

    def _least_busy(self, exclude: str | None) -> str:
        candidates = [label for label in self._workers if label != exclude] or list(self._workers)
        return min(candidates, key=lambda label: self._assigned[label])

    async def _ask(self, label: str, request: JudgeRequest) -> Judgement | None:
        """None if the worker died."""
        self._assigned[label] += 1
        try:
            with self._metrics.at(label) as in_hand:
                return await self._answer(label, request, in_hand)
        finally:
            self._assigned[label] -= 1

    async def _answer(self, label: str, request: JudgeRequest, in_hand: InHand) -> Judgement | None:
        try:
            async with self._places[label]:
                judgement = await self._call(label, request, in_hand)
        except ray.exceptions.RayActorError as err:
            in_hand.left("worker_died")
            self._report_death(label, err)
            return None
        self._down.discard(label)
        self._metrics.worker_up(label, True)
        return judgement

    async def _call(self, label: str, request: JudgeRequest, in_hand: InHand) -> Judgement:
        reply = self._workers[label].judge.remote(request)
        try:
            judgement = await asyncio.wait_for(_result(reply), self._timeout_s)
        except ray.exceptions.RayTaskError:
            raise  # even if what the judge raised is itself a TimeoutError
        except TimeoutError:
            ray.cancel(reply)
            logger.warning("%s took longer than %.0f s for one sample", label, self._timeout_s)
            in_hand.left("timeout")
            return _unjudged(request, FailureCause.TIMEOUT)
        except asyncio.CancelledError:
            ray.cancel(reply)  # the worker's own calls to an endpoint end with it
            raise
        in_hand.left("ok")
        return judgement

    def _report_death(self, label: str, err: ray.exceptions.RayActorError) -> None:
        """Warn once, not for each sample that was with the worker."""
        level = logging.INFO if label in self._down else logging.WARNING
        self._down.add(label)
        self._metrics.worker_up(label, False)
        logger.log(
            level,
            "%s died while judging; its samples go to another: %s",
            label,
            str(err).splitlines()[0],
        )


_RULES_ONLY = JudgePoolStatus(
    spent_usd=0.0,
    concurrency_limit=0,
    num_endpoints=0,
    num_endpoints_up=0,
    rate_limited=0,
    cache_bytes=0,
    limiter_state="",
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
        usage=JudgeUsage(),
        latency_s=0.0,
    )
