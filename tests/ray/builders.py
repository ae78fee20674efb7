"""What the tests of the Ray runtime share on the driver's side."""

from __future__ import annotations

import asyncio
import gc
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config, DataConfig
from rubric_rl.data.prompt_set import load_prompt_set
from rubric_rl.runtime.waiting import Waiting
from rubric_rl.types import (
    JudgeRequest,
    Prompt,
    RolloutRequest,
    Sample,
    TrainBatch,
    TrainSample,
)

T = TypeVar("T")

LOG_DIR = "/nowhere/logs"
_LONGEST_TEST_S = 60.0
_SETTLING_S = 5.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` that fails on tasks left behind and on errors that nobody read."""
    unread: list[dict[str, Any]] = []

    async def bounded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unread.append(what))
        try:
            return await asyncio.wait_for(work, _LONGEST_TEST_S)
        finally:
            await _assert_none_left()

    try:
        return asyncio.run(bounded())
    except BaseException as err:
        # Its frames hold on to tasks, which complain only once they are gone.
        traceback.clear_frames(err.__traceback__)
        raise
    finally:
        gc.collect()
        assert not unread, unread


async def _assert_none_left() -> None:
    this = asyncio.current_task()
    deadline = time.monotonic() + _SETTLING_S
    while left := [task for task in asyncio.all_tasks() if task is not this]:
        assert time.monotonic() < deadline, f"tasks are left behind: {left}"
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + _LONGEST_TEST_S / 2
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.02)


def make_waiting(shown: list[str] | None = None) -> Waiting:
    return Waiting(show=([] if shown is None else shown).append, log_dir=LOG_DIR)


def make_config(*overrides: str) -> Config:
    return compose(["experiment=quickstart_cpu", "run.dir=unused", *overrides])


# ----------------------------------------------------------------------------
# Data


def make_requests(num_prompts: int, samples_per_prompt: int) -> list[RolloutRequest]:
    return [
        RolloutRequest(
            prompt_id=f"p{prompt}",
            sample_index=index,
            token_ids=(1, 2),
            seed=100 * prompt + index,
            max_new_tokens=4,
            temperature=1.0,
        )
        for prompt in range(num_prompts)
        for index in range(samples_per_prompt)
    ]


def make_batch() -> TrainBatch:
    sample = TrainSample(
        prompt_token_ids=(1, 2),
        completion_token_ids=(3,),
        rollout_log_probs=(-0.5,),
        loss_mask=(1,),
        advantage=1.0,
    )
    return TrainBatch(step=1, samples=(sample,), temperature=1.0)


def make_judge_requests(num_samples: int, text: str = "See a doctor.") -> list[JudgeRequest]:
    """Samples of the first packaged prompt, under its rubric of rules."""
    packaged = load_prompt_set(DataConfig(path="builtin:quickstart"))
    record = packaged.train[0]
    return [
        JudgeRequest(
            record=record,
            rubric=packaged.rubrics.of(record.prompt_id),
            sample=_make_sample(record.prompt_id, index, text),
        )
        for index in range(num_samples)
    ]


def _make_sample(prompt_id: str, index: int, text: str) -> Sample:
    return Sample(
        prompt_id=prompt_id,
        sample_index=index,
        prompt_token_ids=(1, 2),
        completion_token_ids=(3, 4),
        log_probs=(-0.5, -0.5),
        loss_mask=(1, 1),
        text=text,
        finish_reason="stop",
        seed=index,
        policy_version=0,
    )


def packaged_prompts(num_train: int, num_eval: int) -> tuple[list[Prompt], list[Prompt]]:
    """The first packaged prompts, with token ids made up."""
    packaged = load_prompt_set(DataConfig(path="builtin:quickstart"))

    def tokenized(records: Any) -> list[Prompt]:
        return [Prompt(record=record, token_ids=(1, 2, 3)) for record in records]

    return tokenized(packaged.train[:num_train]), tokenized(packaged.eval[:num_eval])


def notes(folder: Path, what: str) -> set[str]:
    """What held judges noted, as in `4711_health-001_0`."""
    return {path.stem for path in folder.glob(f"*.{what}")}
