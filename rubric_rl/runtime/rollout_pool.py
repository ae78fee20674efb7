"""The rollout workers as one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import ray

from rubric_rl.errors import WorkerTimeoutError
from rubric_rl.runtime.waiting import Waiting, converted
from rubric_rl.types import RolloutRequest, Sample


class RayRolloutPool:
    """Splits requests among the workers and merges their streams."""

    def __init__(
        self,
        workers: Mapping[str, Any],
        waiting: Waiting,
        *,
        sample_timeout_s: float,
        takes_turns: bool,
    ) -> None:
        """`workers`: actor handles by label. `takes_turns`: they share devices with the learner."""
        self._workers = workers
        self._waiting = waiting
        self._sample_timeout_s = sample_timeout_s
        self._takes_turns = takes_turns

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        """See `RolloutPool.generate`.

        Raises:
            WorkerTimeoutError: no sample came for `sample_timeout_s`.
            WorkerDiedError: a worker failed.
        """
        queue: asyncio.Queue[Sample] = asyncio.Queue()
        shares = split_by_prompt(requests, list(self._workers))
        streams = {
            asyncio.create_task(self._stream(label, share, queue)): label
            for label, share in shares.items()
        }
        try:
            for _ in requests:
                yield await self._next(queue, streams)
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _stream(
        self, label: str, share: Sequence[RolloutRequest], queue: asyncio.Queue[Sample]
    ) -> None:
        worker = self._workers[label]
        stream = worker.generate.options(num_returns="streaming").remote(share)

        async def drain() -> None:
            async for ref in stream:
                await queue.put(await ref)

        try:
            await converted(label, self._waiting.log_dir, drain())
        except asyncio.CancelledError:
            ray.cancel(stream)
            raise

    async def _next(
        self, queue: asyncio.Queue[Sample], streams: Mapping[asyncio.Task[None], str]
    ) -> Sample:
        """The next sample of any worker, or the error of the first that failed."""
        getter = asyncio.create_task(queue.get())
        watched: set[asyncio.Task[Any]] = {s for s in streams if not s.done()} | {getter}
        try:
            while not getter.done():
                done, _ = await asyncio.wait(
                    watched,
                    timeout=self._sample_timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    labels = ", ".join(streams[s] for s in streams if not s.done())
                    raise WorkerTimeoutError(
                        f"waited {self._sample_timeout_s:.0f} s for the next sample of {labels}: "
                        "see their logs, or raise cluster.step_timeout_s"
                    )
                for stream in done - {getter}:
                    stream.result()
                watched -= done - {getter}
            return getter.result()
        finally:
            getter.cancel()

    async def release_memory(self) -> None:
        """Put colocated engines to sleep; the next weight sync wakes them."""
        if self._takes_turns:
            refs = {label: worker.sleep.remote() for label, worker in self._workers.items()}
            await self._waiting.all("engines to sleep", refs, self._sample_timeout_s)


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
