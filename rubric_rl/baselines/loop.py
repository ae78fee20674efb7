"""The loop of a supervised baseline: evaluate, step, checkpoint, until the epochs are over.

    order of the epoch -> examples of a step -> update -> metrics
                     `-> held-out evaluation and checkpoint every so many steps and at the end

The order is a function of the seed and the epoch, so the number of completed steps is the whole
data position, and a run that is killed goes on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rubric_rl.baselines.tasks import Task
from rubric_rl.config.schema import Config
from rubric_rl.controller import checkpoints
from rubric_rl.controller.checkpoint_files import remove_tree
from rubric_rl.controller.interfaces import LearnerGroup
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.controller.state import TrainState
from rubric_rl.data.order import epoch_order
from rubric_rl.observability.artifacts import NO_ARTIFACTS, Artifacts
from rubric_rl.observability.records import StepRecord
from rubric_rl.observability.sinks import MultiSink, Sink
from rubric_rl.rubrics.rubric_set import RubricSet

NO_RUBRICS = RubricSet(version=0, rubrics=())


def first_state(data_hash: str) -> TrainState:
    """Before the first step."""
    return TrainState(rubric_version=0, rubric_hash=NO_RUBRICS.content_hash, data_hash=data_hash)


def total_steps(config: Config, num_train: int, per_step: int) -> int:
    """Optimizer steps of the whole run; an epoch's last step takes what is left."""
    total = math.ceil(num_train / per_step) * config.run.epochs
    return total if config.run.max_steps is None else min(total, config.run.max_steps)


def indices_of(config: Config, step: int, num_train: int, per_step: int) -> list[int]:
    """The examples of the step after `step` completed ones."""
    epoch, position = divmod(step, math.ceil(num_train / per_step))
    order = epoch_order(num_train, seed=config.run.seed, epoch=epoch, shuffle=config.data.shuffle)
    return order[position * per_step : (position + 1) * per_step]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedRun:
    """A baseline with all that it runs on."""

    config: Config
    task: Task
    learner: LearnerGroup
    folder: RunFolder
    sinks: Sequence[Sink]
    stop: asyncio.Event
    """Set: leave a checkpoint and end."""
    artifacts: Artifacts = NO_ARTIFACTS
    """Is told of checkpoints."""

    @property
    def num_steps(self) -> int:
        return total_steps(self.config, self.task.num_train, self.task.per_step)

    async def run(self, state: TrainState) -> TrainState:
        """From `state` until the last step, or until it is asked to stop. Exports at the end.

        Raises:
            LearnerDivergedError, RunFolderError, WorkerDiedError, WorkerTimeoutError: the newest
                checkpoint stands.
        """
        sink, every = MultiSink(self.sinks), self.config.run
        if state.step == 0:
            sink.log(_record(0, await self._evaluated()))
        waited: dict[str, float] = {}
        while state.step < self.num_steps and not self.stop.is_set():
            metrics = await self._step(state.step) | waited
            state, waited = self._after(state), {}
            ends = state.step == self.num_steps or self.stop.is_set()
            if ends or state.step % every.eval_every_steps == 0:
                metrics |= await self._evaluated()
            # First: what is logged after the newest checkpoint is done again.
            sink.log(_record(state.step, metrics))
            if ends or state.step % every.checkpoint_every_steps == 0:
                waited = {"time/checkpoint_s": await self._checkpoint(state)}
        if state.step == self.num_steps:
            await self._export()
        return state

    def _after(self, state: TrainState) -> TrainState:
        step = state.step + 1
        per_epoch = math.ceil(self.task.num_train / self.task.per_step)
        return replace(state, step=step, epoch=step // per_epoch)

    async def _step(self, step: int) -> dict[str, float]:
        began = time.perf_counter()
        indices = indices_of(self.config, step, self.task.num_train, self.task.per_step)
        metrics = await self.task.update(step, indices)
        per_epoch = math.ceil(self.task.num_train / self.task.per_step)
        return {
            **metrics,
            "time/step_s": time.perf_counter() - began,
            "data/epoch": float(step // per_epoch),
        }

    async def _evaluated(self) -> dict[str, float]:
        began = time.perf_counter()
        metrics = await self.task.evaluate()
        return {**metrics, "time/eval_s": time.perf_counter() - began} if metrics else {}

    async def _checkpoint(self, state: TrainState) -> float:
        """Seconds that it took; older ones are deleted."""
        began = time.perf_counter()
        content = checkpoints.CheckpointContent(
            state=state, rubrics=NO_RUBRICS, limiter_state="", archive=None
        )
        checkpoint = await checkpoints.save(
            self.folder,
            content,
            self.learner,
            num_learner_ranks=self.config.learner.num_workers,
            in_background=False,
            copied=asyncio.get_running_loop().create_future(),
        )
        self.artifacts.checkpoint(checkpoints.made(checkpoint, content))
        keep = self.config.run.keep_checkpoints
        self.folder.prune(state.step, keep=keep, keep_best=0, metric=self.config.best_metric)
        return time.perf_counter() - began

    async def _export(self) -> None:
        """Complete or absent."""
        target = self.folder.root / "model"
        partial = self.folder.root / "model.tmp"
        remove_tree(partial)
        partial.mkdir()
        await self.learner.export(partial)
        remove_tree(target)
        partial.rename(target)


def _record(step: int, metrics: dict[str, float]) -> StepRecord:
    return StepRecord(step=step, metrics=metrics, rows=())
