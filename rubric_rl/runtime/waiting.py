"""Bounded, visible waits for work of Ray actors.

Every wait names what it waits for, says how long it has lasted, and ends at its
limit with the names of those that have not answered. Errors of actors come out
as this package's errors, with the actor's log named.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.exceptions

from rubric_rl.errors import RubricRLError, WorkerDiedError, WorkerTimeoutError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SHOW_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How waits are bounded and shown."""

    show: Callable[[str], None]
    log_dir: str
    """Where actors write their logs, for messages."""

    async def all(
        self, what: str, refs: Mapping[str, ray.ObjectRef[T]], timeout_s: float
    ) -> dict[str, T]:
        """Results by label once all are there.

        Args:
            what: names the work, as in `2 rollout workers to start`.
            refs: object references by the label of their actor, `rollout 0`.
            timeout_s: limit for all together.

        Raises:
            WorkerTimeoutError: names those that have not answered.
            WorkerDiedError: an actor's process ended, or raised something unforeseen.
            RubricRLError: as an actor raised it.
        """
        tasks = {
            asyncio.create_task(_result(label, ref, self.log_dir)): label
            for label, ref in refs.items()
        }
        try:
            return await self._collect(what, tasks, timeout_s)
        finally:
            await cancelled(tasks)

    async def _collect(
        self, what: str, tasks: Mapping[asyncio.Task[T], str], timeout_s: float
    ) -> dict[str, T]:
        started = time.monotonic()
        pending = set(tasks)
        while pending:
            elapsed = time.monotonic() - started
            if elapsed >= timeout_s:
                names = ", ".join(sorted(tasks[task] for task in pending))
                raise WorkerTimeoutError(
                    f"waited {elapsed:.0f} s for {what}; no answer from {names}. Logs are in "
                    f"{self.log_dir}; if they show progress, raise the limit (cluster.*_timeout_s)"
                )
            done, pending = await asyncio.wait(
                pending,
                timeout=min(_SHOW_EVERY_S, timeout_s - elapsed),
                return_when=asyncio.FIRST_EXCEPTION,
            )
            # Raise at once, not when the last one answers; of several the first by order.
            for task in tasks:
                if task in done:
                    task.result()
            if pending:
                elapsed = time.monotonic() - started
                ready = len(tasks) - len(pending)
                self.show(f"waiting for {what}, {elapsed:.0f} s: {ready} ready")
        return {label: task.result() for task, label in tasks.items()}


async def _result(label: str, ref: ray.ObjectRef[T], log_dir: str) -> T:
    return await converted(label, log_dir, _await(ref))


async def _await(ref: ray.ObjectRef[T]) -> T:
    return await ref


async def converted(label: str, log_dir: str, call: Coroutine[Any, Any, T]) -> T:
    """The boundary at which an actor's failure becomes an error of this package."""
    try:
        return await call
    except ray.exceptions.RayError as err:
        raise as_own_error(label, log_dir, err) from None


def as_own_error(label: str, log_dir: str, err: ray.exceptions.RayError) -> RubricRLError:
    """What an actor raised, if it is of this package; else WorkerDiedError, in words.

    Ray's text, with the actor's traceback, goes to the log.
    """
    cause = err.cause if isinstance(err, ray.exceptions.RayTaskError) else None
    if isinstance(cause, RubricRLError):
        return cause
    logger.info("%s failed:\n%s", label, err)
    if cause is not None:
        what = f"{label} failed: {type(cause).__name__}: {cause}"
    elif not isinstance(err, ray.exceptions.RayActorError):
        what = f"{label} failed: {type(err).__name__}: {err}"
    elif err.actor_init_failed:
        what = f"{label} could not be created: {str(err).splitlines()[-1]}"
    else:
        what = f"the process of {label} ended unexpectedly (out of memory is the usual reason)"
    return WorkerDiedError(f"{what}. Its log is in {log_dir}")


async def cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and see them end: none is left behind, none ends with an unread error."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
