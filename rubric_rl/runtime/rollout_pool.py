"""The rollout workers as one engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
import ray.exceptions

from rubric_rl.errors import WorkerDiedError, WorkerTimeoutError
from rubric_rl.runtime.pool_metrics import InHand, PoolMetrics
from rubric_rl.runtime.waiting import Waiting, cancelled, converted
from rubric_rl.types import RolloutRequest, Sample

# A cancelled generation ends in milliseconds; a worker that hangs never answers.
_CANCEL_TIMEOUT_S = 5.0


class RayRolloutPool:
    """Splits requests among the workers and merges their streams."""

    def __init__(
        self,
        workers: Mapping[str, Any],
        waiting: Waiting,
        *,
        sample_timeout_s: float,
        takes_turns: bool,
        places: int | None = None,
        run: str = "",
    ) -> None:
        """`workers`: actor handles by label. `takes_turns`: they share devices with the learner.

        `places`: samples that one worker decodes at once, and `run`: whose pool it is; both for
        Ray's metrics.
        """
        self._workers = workers
        self._waiting = waiting
        self._sample_timeout_s = sample_timeout_s
        self._takes_turns = takes_turns
        self._metrics = PoolMetrics("rollout", workers, run=run, places=places)

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        """See `RolloutPool.generate`. Ends when every worker has ended its generation.

        Raises:
            WorkerTimeoutError: no sample came for `sample_timeout_s`.
            WorkerDiedError: a worker failed.
        """
        queue: asyncio.Queue[Sample | None] = asyncio.Queue()
        shares = split_by_prompt(requests, list(self._workers))
        streams = {
            asyncio.create_task(self._stream(label, share, queue)): label
            for label, share in shares.items()
        }
        try:
            num_ended = 0
            while num_ended < len(streams):
                sample = await self._next(queue, streams)
                if sample is None:
                    num_ended += 1
                else:
                    yield sample
        finally:
            await cancelled(streams)

    async def _stream(
        self, label: str, share: Sequence[RolloutRequest], queue: asyncio.Queue[Sample | None]
    ) -> None:
        """Put a worker's samples into the queue, then None."""
        with self._metrics.at(label, len(share)) as in_hand:
            stream = self._workers[label].generate.options(num_returns="streaming").remote(share)
            draining = _drain(label, stream, len(share), queue, in_hand)
            try:
                await converted(label, self._waiting.log_dir, draining)
            except asyncio.CancelledError:
                await _cancel(stream)
                raise
            except WorkerDiedError:
                self._metrics.worker_up(label, False)
                raise
            self._metrics.worker_up(label, True)

    async def _next(
        self, queue: asyncio.Queue[Sample | None], streams: Mapping[asyncio.Task[None], str]
    ) -> Sample | None:
        """What comes next from any worker, or the error of one that failed."""
        deadline = time.monotonic() + self._sample_timeout_s
        getter = asyncio.create_task(queue.get())
        try:
            while True:
                _raise_failure(streams)
                if getter.done():
                    return getter.result()
                done, _ = await asyncio.wait(
                    {getter, *(stream for stream in streams if not stream.done())},
                    timeout=deadline - time.monotonic(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    raise self._out_of_time(streams)
        finally:
            getter.cancel()

    def _out_of_time(self, streams: Mapping[asyncio.Task[None], str]) -> WorkerTimeoutError:
        silent = [label for stream, label in streams.items() if not stream.done()]
        for label in silent:
            self._metrics.worker_up(label, False)
        return WorkerTimeoutError(
            f"waited {self._sample_timeout_s:.0f} s for the next sample of {', '.join(silent)}. "
            f"Logs are in {self._waiting.log_dir}; if they show progress, raise "
            "cluster.step_timeout_s"
        )

    async def release_memory(self) -> None:
        """Put colocated engines to sleep; the next weight sync wakes them."""
        if self._takes_turns:
            refs = {label: worker.sleep.remote() for label, worker in self._workers.items()}
            await self._waiting.all("engines to sleep", refs, self._sample_timeout_s)


async def _drain(
    label: str,
    stream: Any,
    num_expected: int,
    queue: asyncio.Queue[Sample | None],
    in_hand: InHand,
) -> None:
    num_samples = 0
    async for ref in stream:
        queue.put_nowait(await ref)
        in_hand.left("ok")
        num_samples += 1
    assert num_samples == num_expected, (
        f"{label} ended its generation after {num_samples} of {num_expected} samples"
    )
    queue.put_nowait(None)


def _raise_failure(streams: Iterable[asyncio.Task[None]]) -> None:
    for stream in streams:
        if stream.done():
            stream.result()


async def _cancel(stream: Any) -> None:
    """End a generation on its worker, and wait for that within reason."""
    ray.cancel(stream)
    with suppress(TimeoutError, ray.exceptions.RayError):
        async with asyncio.timeout(_CANCEL_TIMEOUT_S):
            await stream.completed()


def split_by_prompt(
    requests: Sequence[RolloutRequest], labels: Sequence[str]
) -> dict[str, list[RolloutRequest]]:
    """Requests by worker, in the given order; one prompt's samples stay together.

    Together they share the prompt's prefix in the engine's cache. Prompts go
    round robin, so the split depends on nothing but the order of the requests.
    """
    shares: dict[str, list[RolloutRequest]] = {}
    position: dict[str, int] = {}
    for request in requests:
        index = position.setdefault(request.prompt_id, len(position))
        shares.setdefault(labels[index % len(labels)], []).append(request)
    return shares
