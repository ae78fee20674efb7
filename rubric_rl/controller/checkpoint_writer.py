"""Makes the checkpoints of a run, one at a time, while the run goes on.

    save --> small files, learner copies its state --> back to the run
                                    |
                                    +--> learner writes --> manifest --> rename --> announce
                                                                                    --> prune

With `run.checkpoint_writing=sync` `save` returns at the end of the second line. A write
that fails is raised by `raise_failure`, by the next `save` and by `finish`, whichever
comes first; the checkpoints before it stand.

    save: consumes: CheckpointContent
            waits for:    the checkpoint in flight, then the learner's copy
            unblocked by: the learner (`LearnerGroup.save`, `written`)
          produces: a complete checkpoint folder, later
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import Self

from rubric_rl.config.schema import Config
from rubric_rl.controller import checkpoints
from rubric_rl.controller.checkpoint_files import Checkpoint
from rubric_rl.controller.checkpoints import CheckpointContent
from rubric_rl.controller.interfaces import LearnerGroup
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.observability.artifacts import NO_ARTIFACTS, Artifacts

logger = logging.getLogger(__name__)

_LAST_WAIT_S = 300.0
"""Longest wait for a write in flight when the run fails: a rank that hangs never answers."""


class CheckpointWriter:
    """Leaving the block waits for the write in flight, however the block ends, except when it
    is cancelled."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        learner: LearnerGroup,
        artifacts: Artifacts = NO_ARTIFACTS,
    ) -> None:
        """`artifacts` is told of each checkpoint before older ones are deleted."""
        self._config = config
        self._artifacts = artifacts
        self._folder = folder
        self._learner = learner
        self._making: asyncio.Task[None] | None = None
        self._metrics: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.finish()
        elif self._making is not None:
            await self._end(self._making, patient=isinstance(error, Exception))

    async def save(self, content: CheckpointContent) -> None:
        """Begin the checkpoint of `content`; the learner may go on once this returns.

        Of a step whose checkpoint is complete, only what was spent and how it was evaluated
        are brought up to date.

        Raises:
            RunFolderError: it, or the one before, can't be written.
        """
        await self.finish()
        began = time.perf_counter()
        copied = asyncio.get_running_loop().create_future()
        self._making = asyncio.create_task(self._make(content, copied, began))
        if self._config.async_checkpoints:
            await asyncio.wait({self._making, copied}, return_when=asyncio.FIRST_COMPLETED)
            self.raise_failure()
        else:
            await self.finish()
        self._metrics["time/checkpoint_s"] = time.perf_counter() - began

    def raise_failure(self) -> None:
        """Raise what the write in flight failed with, if it has failed by now."""
        if self._making is not None and self._making.done():
            making, self._making = self._making, None
            making.result()

    async def finish(self) -> None:
        """Wait for the write in flight. Raises what it failed with."""
        if self._making is not None:
            await asyncio.wait({self._making})
            self.raise_failure()

    def take_metrics(self) -> dict[str, float]:
        """How long checkpoints took since the last call."""
        taken, self._metrics = self._metrics, {}
        return taken

    async def _make(
        self, content: CheckpointContent, copied: asyncio.Future[None], began: float
    ) -> None:
        config = self._config
        checkpoint = await checkpoints.save(
            self._folder,
            content,
            self._learner,
            num_learner_ranks=config.learner.num_workers,
            in_background=config.async_checkpoints,
            copied=copied,
        )
        await asyncio.to_thread(self._announce_and_prune, checkpoint, content)
        self._metrics["time/checkpoint_write_s"] = time.perf_counter() - began

    def _announce_and_prune(self, checkpoint: Checkpoint, content: CheckpointContent) -> None:
        self._artifacts.checkpoint(checkpoints.made(checkpoint, content))
        self._folder.prune(
            content.state.step,
            keep=self._config.run.keep_checkpoints,
            keep_best=self._config.run.keep_best,
            metric=self._config.best_metric,
        )

    async def _end(self, making: asyncio.Task[None], *, patient: bool) -> None:
        """Wait a bounded time; what goes wrong is logged, since another error is on its way."""
        await asyncio.wait({making}, timeout=_LAST_WAIT_S if patient else 0)
        if not making.done():
            logger.warning("the checkpoint in flight is given up; the one before it stands")
            making.cancel()
            await asyncio.wait({making})
        elif not making.cancelled() and (failure := making.exception()) is not None:
            logger.warning("the checkpoint in flight can't be written: %s", failure)
