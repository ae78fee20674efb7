"""Rollouts that are judged while they last.

    requests --> rollout pool --sample--> judge pool --judgement--> judged sample --> group
                                 (a task for each sample, from the moment it is finished)

Training and evaluation both run through here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from rubric_rl.config.schema import Config
from rubric_rl.controller.assembly import judged, make_group
from rubric_rl.controller.interfaces import JudgePool, RolloutPool
from rubric_rl.data.order import sample_seed
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Group, JudgedSample, JudgeRequest, Prompt, RolloutRequest, Sample


class Status(Protocol):
    """Shows a person what is going on; each text replaces the last."""

    def status(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """Which samples of each prompt to draw, and what their policy must be."""

    purpose: Literal["train", "eval"]
    epoch: int
    samples_per_prompt: int
    policy_versions: range
    """Versions that a sample may carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTiming:
    """Where the time went; what is judged during a rollout costs none of its own."""

    rollout_s: float = 0.0
    """First request to last sample."""
    judge_wait_s: float = 0.0
    """Last sample to last verdict."""

    def __add__(self, other: StreamTiming) -> StreamTiming:
        return StreamTiming(
            rollout_s=self.rollout_s + other.rollout_s,
            judge_wait_s=self.judge_wait_s + other.judge_wait_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """One group for each prompt, in the order of the prompts."""

    groups: tuple[Group, ...]
    timing: StreamTiming


class GroupStreamer:
    """Rolls prompts out and judges each sample at once, under fixed rubrics."""

    def __init__(
        self,
        config: Config,
        rubrics: RubricSet,
        rollouts: RolloutPool,
        judges: JudgePool,
        status: Status,
    ) -> None:
        self._config = config
        self.rubrics = rubrics
        """The rubrics in force. Change them only while nothing is rolled out."""
        self._rollouts = rollouts
        self._judges = judges
        self._status = status
        self.weights_in_use = asyncio.Lock()
        """Held while samples are generated. Publish under it, and a sample has one policy."""

    async def run(self, prompts: Sequence[Prompt], plan: RolloutPlan) -> StreamResult:
        """The judged groups of all prompts, once the last verdict is in.

        The first error of the rollout pool or of a judge task cancels everything in
        flight and is raised as it is. So is AssertionError on a sample of a policy
        version that the plan doesn't allow.
        """
        requests = self._requests(prompts, plan)
        progress = _Progress(self._status, plan.purpose, len(requests))
        async with _all_or_nothing() as tasks:
            async with self.weights_in_use:
                start = time.perf_counter()
                judge = partial(self._judge, {p.prompt_id: p for p in prompts}, plan, progress)
                judgings = [
                    tasks.create_task(judge(sample))
                    async for sample in self._rollouts.generate(requests)
                ]
            last_sample = time.perf_counter()
        timing = StreamTiming(
            rollout_s=last_sample - start, judge_wait_s=time.perf_counter() - last_sample
        )
        samples = [judging.result() for judging in judgings]
        _assert_answered(requests, samples)
        return StreamResult(groups=self._groups(prompts, samples), timing=timing)

    def _requests(self, prompts: Sequence[Prompt], plan: RolloutPlan) -> list[RolloutRequest]:
        return [
            RolloutRequest(
                prompt_id=prompt.prompt_id,
                sample_index=index,
                token_ids=prompt.token_ids,
                seed=sample_seed(
                    self._config.run.seed, plan.purpose, plan.epoch, prompt.prompt_id, index
                ),
                max_new_tokens=self._config.rollout.max_new_tokens,
                temperature=self._config.rollout.temperature,
            )
            for prompt in prompts
            for index in range(plan.samples_per_prompt)
        ]

    async def _judge(
        self, prompts: Mapping[str, Prompt], plan: RolloutPlan, progress: _Progress, sample: Sample
    ) -> JudgedSample:
        progress.sampled()
        assert sample.policy_version in plan.policy_versions, (
            f"sample {sample.sample_index} of prompt {sample.prompt_id!r} is of policy version "
            f"{sample.policy_version}, want one of {list(plan.policy_versions)}"
        )
        rubric = self.rubrics.of(sample.prompt_id)
        record = prompts[sample.prompt_id].record
        judgement = await self._judges.judge(
            JudgeRequest(record=record, rubric=rubric, sample=sample)
        )
        progress.judged()
        return judged(sample, judgement, rubric, self._config.rubrics)

    def _groups(
        self, prompts: Sequence[Prompt], samples: Sequence[JudgedSample]
    ) -> tuple[Group, ...]:
        by_prompt: dict[str, list[JudgedSample]] = {prompt.prompt_id: [] for prompt in prompts}
        for judged_sample in samples:
            by_prompt[judged_sample.sample.prompt_id].append(judged_sample)
        return tuple(
            make_group(self.rubrics.of(prompt_id), of_prompt)
            for prompt_id, of_prompt in by_prompt.items()
        )


class _Progress:
    """Counts samples and judgements for the status line."""

    def __init__(self, status: Status, purpose: str, num_requests: int) -> None:
        self._status = status
        self._label = {"train": "rollout", "eval": "evaluation"}[purpose]
        self._num_requests = num_requests
        self._num_samples = 0
        self._num_judged = 0

    def sampled(self) -> None:
        self._num_samples += 1
        self._show()

    def judged(self) -> None:
        self._num_judged += 1
        self._show()

    def _show(self) -> None:
        self._status.status(
            f"{self._label}: {self._num_samples} of {self._num_requests} samples, "
            f"{self._num_judged} judged"
        )


@asynccontextmanager
async def _all_or_nothing() -> AsyncGenerator[asyncio.TaskGroup]:
    """A task group that raises the first error itself: what fails after it was being cancelled."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as failures:
        error = failures.exceptions[0]
        raise error from error.__cause__


def _assert_answered(requests: Sequence[RolloutRequest], samples: Sequence[JudgedSample]) -> None:
    want = sorted((r.prompt_id, r.sample_index, r.seed) for r in requests)
    got = sorted((s.sample.prompt_id, s.sample.sample_index, s.sample.seed) for s in samples)
    assert got == want, f"the samples don't match the {len(want)} rollouts that were requested"
