"""The groups of an epoch's steps, produced while the learner works.

    epoch order -> P prompts -> GroupStreamer -> groups with enough scored samples --+
                       ^                             | too few                       |
                       +---- next prompts (refill) --+                               v
                                                                       queue -> the loop

One producer task and one consumer, the loop. Synchronous training is
`max_staleness = 0` of the same code.

    producer:  consumes: the epoch's prompts, from the state's data position on
                 waits for:    policy version >= step - 1 - max_staleness
                 unblocked by: `learner_at`
               produces: StepGroups of steps in order, then an end mark
    consumer:  consumes: StepGroups (`next`)
                 waits for:    the queue
                 unblocked by: the producer, also when it fails: the end mark comes
                               from its `finally`, and `next` raises its error

Generation never runs ahead into the next epoch, whose rubrics may be others.
With `max_staleness = 0` a resumed run repeats the undisturbed one exactly. With
k > 0 prompts and seeds are the same, but the steps that were in flight are
generated again by the newer policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rubric_rl.config.schema import Config
from rubric_rl.controller.judging_tally import nothing_scored
from rubric_rl.controller.state import TrainState
from rubric_rl.controller.streaming import GroupStreamer, RolloutPlan, StreamTiming
from rubric_rl.data.order import epoch_order
from rubric_rl.errors import JudgeFailureError, RunFolderError
from rubric_rl.types import Group, JudgedSample, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """What one step learns from, and what it took to get it.

    Without groups there is nothing to learn: the last prompts of an epoch, fewer than
    a step's, could not be scored.
    """

    step: int
    """The step that learns from it: its update makes this policy version."""
    groups: tuple[Group, ...]
    """In the order in which their prompts were drawn."""
    dropped: tuple[Group, ...]
    """Groups with fewer than `algorithm.min_scored_samples` scored samples."""
    consumed_prompt_ids: tuple[str, ...]
    num_refilled: int
    """How many of them were drawn in place of dropped groups."""
    timing: StreamTiming

    @property
    def samples(self) -> list[JudgedSample]:
        """All that were judged, in dropped groups too."""
        return [s for group in (*self.groups, *self.dropped) for s in group.scored + group.unscored]

    @property
    def staleness(self) -> list[int]:
        """Learner version minus sample version of each of `samples`, in steps."""
        return [self.step - 1 - s.sample.policy_version for s in self.samples]


class VersionGate:
    """Holds the producer back until the learner has completed enough steps."""

    def __init__(self, policy_version: int) -> None:
        self._policy_version = policy_version
        self._advanced = asyncio.Event()

    def open(self, policy_version: int) -> None:
        self._policy_version = policy_version
        self._advanced.set()

    async def wait_for(self, policy_version: int) -> None:
        while self._policy_version < policy_version:
            self._advanced.clear()
            await self._advanced.wait()


class NothingScored(Exception):
    """No group of a step has a reward; stays within the controller."""

    def __init__(self, groups: StepGroups, error: JudgeFailureError) -> None:
        super().__init__(str(error))
        self.groups = groups
        self.error = error


class EpochGroups:
    """The rest of the state's epoch, step by step.

    Use as an async context manager: leaving it cancels what is in flight. Raises
    RunFolderError if the state's data position is not one of these prompts.
    """

    def __init__(
        self, config: Config, prompts: Sequence[Prompt], state: TrainState, streamer: GroupStreamer
    ) -> None:
        self._config = config
        self._streamer = streamer
        self._epoch = state.epoch
        self._first_step = state.step + 1
        self._epoch_size = len(prompts)
        self._upcoming = _upcoming(config, prompts, state)
        self._gate = VersionGate(state.step)
        # The gate keeps at most max_staleness + 1 steps in it; one place is for the end mark.
        self._queue: asyncio.Queue[StepGroups | None] = asyncio.Queue(
            config.algorithm.max_staleness + 2
        )

    async def __aenter__(self) -> EpochGroups:
        self._producer = asyncio.create_task(self._produce(), name="group-producer")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._producer.cancel()
        await asyncio.wait({self._producer})

    async def next(self) -> StepGroups | None:
        """The next step's groups, None after the epoch's last; raises what the producer raised."""
        groups = await self._queue.get()
        if groups is None:
            await self._producer
        return groups

    def learner_at(self, policy_version: int) -> None:
        """Tell the producer that this version is published and its step is over."""
        self._gate.open(policy_version)

    async def _produce(self) -> None:
        max_staleness, max_steps = self._config.algorithm.max_staleness, self._config.run.max_steps
        step, upcoming = self._first_step, self._upcoming
        try:
            while upcoming and (max_steps is None or step <= max_steps):
                await self._gate.wait_for(step - 1 - max_staleness)
                groups = await self._draw(step, upcoming)
                self._refuse_empty(groups)
                upcoming = upcoming[len(groups.consumed_prompt_ids) :]
                await self._queue.put(groups)
                step += 1
        finally:
            self._queue.put_nowait(None)

    async def _draw(self, step: int, upcoming: Sequence[Prompt]) -> StepGroups:
        """Draw prompts in rounds: first `prompts_per_step`, then one for each dropped group.

        A round starts when all of the one before is judged, so that what is
        generated together does not depend on which verdict came first.
        """
        wanted = self._config.rollout.prompts_per_step
        most = wanted + self._config.algorithm.max_refill_prompts
        kept: list[Group] = []
        dropped: list[Group] = []
        timing = StreamTiming()
        drawn = 0
        while picked := upcoming[drawn : min(drawn + wanted - len(kept), most)]:
            result = await self._streamer.run(picked, self._plan(step))
            for group in result.groups:
                (kept if self._is_enough(group) else dropped).append(group)
            timing += result.timing
            drawn += len(picked)
        return StepGroups(
            step=step,
            groups=tuple(kept),
            dropped=tuple(dropped),
            consumed_prompt_ids=tuple(prompt.prompt_id for prompt in upcoming[:drawn]),
            num_refilled=drawn - min(wanted, drawn),
            timing=timing,
        )

    def _plan(self, step: int) -> RolloutPlan:
        newest = step - 1
        return RolloutPlan(
            purpose="train",
            epoch=self._epoch,
            samples_per_prompt=self._config.rollout.samples_per_prompt,
            policy_versions=range(newest - self._config.algorithm.max_staleness, newest + 1),
        )

    def _refuse_empty(self, groups: StepGroups) -> None:
        """Raise NothingScored if nothing was scored, but for the few last of an epoch."""
        a_step = min(self._config.rollout.prompts_per_step, self._epoch_size)
        if not groups.groups and len(groups.consumed_prompt_ids) >= a_step:
            min_scored = self._config.algorithm.min_scored_samples
            raise NothingScored(groups, nothing_scored(groups.step, groups.samples, min_scored))

    def _is_enough(self, group: Group) -> bool:
        return len(group.scored) >= self._config.algorithm.min_scored_samples


def _upcoming(config: Config, prompts: Sequence[Prompt], state: TrainState) -> list[Prompt]:
    """The prompts that the state's epoch has yet to use, in order."""
    order = epoch_order(
        len(prompts), seed=config.run.seed, epoch=state.epoch, shuffle=config.data.shuffle
    )
    ordered = [prompts[index] for index in order]
    done = len(state.consumed)
    if tuple(prompt.prompt_id for prompt in ordered[:done]) != state.consumed:
        raise RunFolderError(
            f"the checkpoint at step {state.step} has used {done} prompts of epoch {state.epoch}, "
            f"and they are not the first {done} of the {len(prompts)} prompts given now: "
            "data.path, its split or run.seed differ. Resume with the data and the seed that the "
            "run was started with, or choose another run.dir"
        )
    return ordered[done:]
