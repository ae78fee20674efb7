"""Rollout workers as one engine: streaming, failures, cancellation."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

import pytest

from rubric_rl.errors import WorkerDiedError, WorkerTimeoutError
from rubric_rl.runtime.rollout_pool import RayRolloutPool
from rubric_rl.types import Sample

from .builders import LOG_DIR, make_requests, make_waiting, run
from .fakes import FakeRolloutWorker


def make_pool(
    engines: dict[str, Any], *, sample_timeout_s: float = 30.0, takes_turns: bool = False
) -> RayRolloutPool:
    return RayRolloutPool(
        engines, make_waiting(), sample_timeout_s=sample_timeout_s, takes_turns=takes_turns
    )


async def collect(pool: RayRolloutPool, num_prompts: int = 4, per_prompt: int = 3) -> list[Sample]:
    return [sample async for sample in pool.generate(make_requests(num_prompts, per_prompt))]


async def events_with_cancelled(engine: Any) -> list[str]:
    """An engine's events once a cancellation is among them; on a busy machine it takes a while."""
    deadline = time.monotonic() + 30
    while True:
        events: list[str] = (await engine.seen.remote())[0]
        if "cancelled" in events or time.monotonic() > deadline:
            return events
        await asyncio.sleep(0.1)


def keys(samples: list[Sample]) -> list[tuple[str, int, int]]:
    return sorted((s.prompt_id, s.sample_index, s.seed) for s in samples)


# ----------------------------------------------------------------------------
# Streaming


def test_every_request_is_answered_exactly_once(engines: dict[str, Any]) -> None:
    samples = run(collect(make_pool(engines)))
    assert keys(samples) == sorted(
        (r.prompt_id, r.sample_index, r.seed) for r in make_requests(4, 3)
    )


def test_samples_of_one_prompt_come_from_one_worker(engines: dict[str, Any]) -> None:
    workers_of = defaultdict(set)
    for sample in run(collect(make_pool(engines))):
        workers_of[sample.prompt_id].add(sample.text.split()[0])
    # Round robin in the order of the prompts.
    assert workers_of == {
        "p0": {"engine0"},
        "p1": {"engine1"},
        "p2": {"engine0"},
        "p3": {"engine1"},
    }


def test_samples_of_a_fast_worker_are_out_before_the_slow_one_has_any(
    engines: dict[str, Any],
) -> None:
    async def work() -> tuple[list[Sample], list[Sample]]:
        await engines["rollout 1"].script.remote(held=True)
        samples = make_pool(engines).generate(make_requests(4, 3))
        fast = [await anext(samples) for _ in range(6)]
        await engines["rollout 1"].release.remote()
        return fast, [sample async for sample in samples]

    fast, slow = run(work())
    assert {s.prompt_id for s in fast} == {"p0", "p2"}
    assert {s.prompt_id for s in slow} == {"p1", "p3"}
    assert len(set(keys(fast + slow))) == 12


def test_fewer_prompts_than_workers_leave_a_worker_alone(engines: dict[str, Any]) -> None:
    async def work() -> tuple[int, list[str]]:
        samples = await collect(make_pool(engines), num_prompts=1)
        events, _ = await engines["rollout 1"].seen.remote()
        return len(samples), events

    assert run(work()) == (3, [])


def test_no_requests_give_no_samples(engines: dict[str, Any]) -> None:
    assert run(collect(make_pool(engines), num_prompts=0)) == []


def test_the_stream_ends_only_when_each_worker_has_ended_its_generation(
    engines: dict[str, Any],
) -> None:
    async def work() -> list[list[str]]:
        await collect(make_pool(engines))
        return [(await engine.seen.remote())[0] for engine in engines.values()]

    assert run(work()) == [["generate", "generated"]] * 2


# ----------------------------------------------------------------------------
# Failures


def test_a_worker_killed_in_the_middle_is_named_with_its_log(
    engines: dict[str, Any], start: Any, log_dir: Any
) -> None:
    dying = start(FakeRolloutWorker, f"{log_dir}/rollout_1_dying.log")

    async def work() -> None:
        await engines["rollout 0"].script.remote("silent")
        await dying.script.remote("dies", after=1)
        await collect(make_pool({"rollout 0": engines["rollout 0"], "rollout 1": dying}))

    with pytest.raises(WorkerDiedError, match=f"rollout 1 ended.*log is in {LOG_DIR}"):
        run(work())


def test_what_an_engine_raises_is_told_with_the_name_of_its_worker(
    engines: dict[str, Any],
) -> None:
    async def work() -> None:
        await engines["rollout 1"].script.remote("raises", after=1)
        await collect(make_pool(engines))

    with pytest.raises(WorkerDiedError, match="rollout 1 failed: KeyError: 'no such layer'"):
        run(work())


def test_workers_that_fail_together_give_one_error_and_no_unread_one(
    engines: dict[str, Any],
) -> None:
    async def work() -> None:
        for engine in engines.values():
            await engine.script.remote("raises")
        await collect(make_pool(engines))

    with pytest.raises(WorkerDiedError):
        run(work())


def test_a_failure_while_the_consumer_is_busy_is_raised_at_its_next_sample(
    engines: dict[str, Any],
) -> None:
    async def work() -> None:
        await engines["rollout 0"].script.remote("silent", after=1)
        await engines["rollout 1"].script.remote("raises", held=True)
        samples = make_pool(engines).generate(make_requests(2, 3))
        await anext(samples)
        await engines["rollout 1"].release.remote()
        await asyncio.sleep(1.0)  # busy with something else
        await anext(samples)

    began = time.monotonic()
    with pytest.raises(WorkerDiedError, match="rollout 1"):
        run(work())
    assert time.monotonic() - began < 15  # not the 30 s of the wait for a sample


def test_a_worker_that_ends_early_is_a_bug_and_is_told_at_once(engines: dict[str, Any]) -> None:
    async def work() -> None:
        await engines["rollout 0"].script.remote("stops early", after=1)
        await collect(make_pool(engines))

    with pytest.raises(AssertionError, match="rollout 0 ended its generation after 1 of 6 samples"):
        run(work())


def test_a_silent_worker_is_named_once_the_limit_is_reached(engines: dict[str, Any]) -> None:
    async def work() -> None:
        await engines["rollout 1"].script.remote("silent", after=2)
        await collect(make_pool(engines, sample_timeout_s=1.0))

    began = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"waited 1 s for the next sample of rollout 1\."):
        run(work())
    assert time.monotonic() - began < 10


# ----------------------------------------------------------------------------
# Cancellation and memory


def test_cancelling_the_consumer_ends_the_generation_on_every_worker(
    engines: dict[str, Any],
) -> None:
    async def work() -> list[list[str]]:
        for engine in engines.values():
            await engine.script.remote("silent", after=1)
        received = asyncio.Semaphore(0)

        async def consume() -> None:
            async for _ in make_pool(engines).generate(make_requests(4, 3)):
                received.release()

        consumer = asyncio.create_task(consume())
        for _ in range(2):
            await received.acquire()
        consumer.cancel()
        await asyncio.wait({consumer})
        assert consumer.cancelled()
        return [await events_with_cancelled(engine) for engine in engines.values()]

    assert run(work()) == [["generate", "cancelled"]] * 2


def test_one_workers_failure_ends_the_generation_of_the_others(engines: dict[str, Any]) -> None:
    async def work() -> list[str]:
        await engines["rollout 0"].script.remote("silent")
        await engines["rollout 1"].script.remote("raises")
        with pytest.raises(WorkerDiedError):
            await collect(make_pool(engines))
        return await events_with_cancelled(engines["rollout 0"])

    assert run(work()) == ["generate", "cancelled"]


@pytest.mark.parametrize(("takes_turns", "events"), [(True, ["sleep"]), (False, [])])
def test_only_engines_that_share_a_device_with_the_learner_sleep(
    engines: dict[str, Any], takes_turns: bool, events: list[str]
) -> None:
    async def work() -> list[list[str]]:
        await make_pool(engines, takes_turns=takes_turns).release_memory()
        return [(await engine.seen.remote())[0] for engine in engines.values()]

    assert run(work()) == [events] * 2
