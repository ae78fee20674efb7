"""The learner ranks as one learner."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from rubric_rl.errors import WorkerTimeoutError
from rubric_rl.learner.pairs import PairBatch, RewardUpdate, TokenPair
from rubric_rl.observability.checksums import FileDigest
from rubric_rl.runtime.waiting import Waiting
from rubric_rl.types import TrainBatch, UpdateResult

_ASK_EVERY_S = 0.5


class RayLearnerGroup:
    """Calls every rank and waits for all; rank 0 speaks for them.

    When one rank fails, the others may be stuck in a collective. The error is
    raised at once and the caller ends the run, which ends their processes.
    """

    def __init__(self, ranks: Mapping[str, Any], waiting: Waiting, *, timeout_s: float) -> None:
        """`ranks`: actor handles by label, in the order of the ranks."""
        self._ranks = ranks
        self._waiting = waiting
        self._timeout_s = timeout_s

    async def update(self, batch: TrainBatch) -> UpdateResult:
        # Once into the object store, not once for each rank.
        shared = ray.put(batch)
        return await self.call(f"step {batch.step} of the learner", "update", shared)

    async def log_probs(self, batch: TrainBatch) -> list[list[float]]:
        """Of each sample's completion tokens under the policy as it is."""
        return await self.call("the learner's log-probs", "log_probs", ray.put(batch))

    async def save(self, directory: Path, *, in_background: bool) -> None:
        await self.call("the learner to save", "save", str(directory.resolve()), in_background)

    async def written(self) -> dict[str, FileDigest]:
        """Asks again and again, since a rank does one thing at a time: while it takes a step,
        the answer waits for that."""
        # A step shows what it waits for; this would write over it.
        waiting = dataclasses.replace(self._waiting, show=lambda _: None)
        began = time.monotonic()
        while True:
            refs = {label: rank.written.remote() for label, rank in self._ranks.items()}
            answers = await waiting.all("the checkpoint to be written", refs, self._timeout_s)
            busy = [label for label, files in answers.items() if files is None]
            if not busy:
                return {name: file for files in answers.values() for name, file in files.items()}
            if time.monotonic() - began > self._timeout_s:
                raise WorkerTimeoutError(
                    f"the checkpoint is still being written by {', '.join(busy)} after "
                    f"{self._timeout_s:.0f} s: is the disk of run.dir responding? If it is only "
                    "slow, raise cluster.step_timeout_s"
                )
            await asyncio.sleep(_ASK_EVERY_S)

    async def load(self, directory: Path) -> int:
        return await self.call("the learner to load", "load", str(directory.resolve()))

    async def export(self, directory: Path) -> None:
        await self.call("the learner to export", "export", str(directory.resolve()))

    async def call(self, what: str, method: str, *args: object) -> Any:
        """Rank 0's result of a method that all ranks are told to run; `what` names the wait."""
        refs = {label: getattr(rank, method).remote(*args) for label, rank in self._ranks.items()}
        results = await self._waiting.all(what, refs, self._timeout_s)
        return next(iter(results.values()))


class RayPairLearner:
    """Ranks that train a reward model."""

    def __init__(self, ranks: RayLearnerGroup) -> None:
        self._ranks = ranks

    async def update(self, batch: PairBatch) -> RewardUpdate:
        shared = ray.put(batch)
        return await self._ranks.call(f"step {batch.step} of the reward model", "update", shared)

    async def margins(self, pairs: tuple[TokenPair, ...]) -> list[float]:
        return await self._ranks.call("the reward model's margins", "margins", ray.put(pairs))
