"""Weight sync over Ray: one call for each engine, compared versions, bounded waits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.errors import WeightSyncError, WorkerDiedError, WorkerTimeoutError
from rubric_rl.runtime.weight_sync import (
    EngineWeightSync,
    ObjectStoreWeightSync,
    RayFleetClient,
    TurnTakingWeightSync,
)
from rubric_rl.types import SyncReport

from .builders import LOG_DIR, make_waiting, run


def make_sync(
    ranks: dict[str, Any], engines: dict[str, Any], timeout_s: float = 30.0
) -> ObjectStoreWeightSync:
    return ObjectStoreWeightSync(ranks, engines, make_waiting(), timeout_s=timeout_s)


async def seen(engines: dict[str, Any]) -> list[tuple[list[str], int]]:
    """Events of each engine, and its calls of `load_weights`."""
    return [await engine.seen.remote() for engine in engines.values()]


# ----------------------------------------------------------------------------
# Through the object store


def test_every_engine_gets_all_buckets_in_order_in_one_call(
    ranks: dict[str, Any], engines: dict[str, Any]
) -> None:
    async def work() -> tuple[SyncReport, list[tuple[list[str], int]]]:
        report = await make_sync(ranks, engines).publish(3)
        return report, await seen(engines)

    report, of_engines = run(work())
    assert of_engines == [(["start", "bucket 0a", "bucket 0b", "finish 3"], 1)] * 2
    assert report.versions == (3, 3)
    assert 0 < report.seconds < 30


def test_all_ranks_take_part_in_gathering_the_weights(
    ranks: dict[str, Any], engines: dict[str, Any]
) -> None:
    async def work() -> list[list[str]]:
        await make_sync(ranks, engines).publish(1)
        return [await rank.events.remote() for rank in ranks.values()]

    assert run(work()) == [["put"], ["put"]]


def test_an_engine_that_serves_another_version_is_named_with_it(
    ranks: dict[str, Any], engines: dict[str, Any]
) -> None:
    async def work() -> None:
        await engines["rollout 1"].script.remote("serves another version")
        await make_sync(ranks, engines).publish(3)

    with pytest.raises(WeightSyncError, match=r"policy version 3 .* another: rollout 1 serves 4$"):
        run(work())


def test_an_engine_that_hangs_is_named_once_the_limit_is_reached(
    ranks: dict[str, Any], engines: dict[str, Any]
) -> None:
    async def work() -> None:
        await engines["rollout 0"].script.remote("hangs in sync")
        await make_sync(ranks, engines, timeout_s=1.0).publish(3)

    began = time.monotonic()
    with pytest.raises(
        WorkerTimeoutError, match=r"2 engines to load policy version 3; no answer from rollout 0\."
    ):
        run(work())
    assert time.monotonic() - began < 10


# ----------------------------------------------------------------------------
# Taking turns


def test_the_learner_leaves_the_device_once_the_weights_are_published(
    ranks: dict[str, Any], engines: dict[str, Any]
) -> None:
    async def work() -> tuple[SyncReport, list[list[str]]]:
        inner = make_sync(ranks, engines)
        report = await TurnTakingWeightSync(inner, ranks, make_waiting(), timeout_s=30).publish(2)
        return report, [await rank.events.remote() for rank in ranks.values()]

    report, events = run(work())
    assert report.versions == (2, 2)
    assert events == [["put", "offload"]] * 2


# ----------------------------------------------------------------------------
# Through a sender in learner rank 0, as with vLLM's own engines


def make_client(engines: dict[str, Any], timeout_s: float = 30.0) -> RayFleetClient:
    return RayFleetClient(engines, processes_per_engine=2, log_dir=LOG_DIR, timeout_s=timeout_s)


def test_a_sender_reaches_every_engine_and_its_version_is_compared(
    ranks: dict[str, Any], engines: dict[str, Any], tmp_path: Path
) -> None:
    async def work() -> tuple[SyncReport, list[tuple[list[str], int]]]:
        first = {"learner 0": ranks["learner 0"]}
        await ranks["learner 0"].join.remote(make_client(engines), str(tmp_path))
        sync = EngineWeightSync(first, engines, make_waiting(), timeout_s=30)
        return await sync.publish(5), await seen(engines)

    report, of_engines = run(work())
    assert report.versions == (5, 5)
    # Each engine has two processes; those of the second come after those of the first.
    assert [events[0] for events, _ in of_engines] == ["join at 1", "join at 3"]
    assert [events[1:] for events, _ in of_engines] == [["start", "bucket sent", "finish 5"]] * 2


def test_an_engine_that_fails_under_a_sender_is_named_while_another_waits_for_it(
    ranks: dict[str, Any], engines: dict[str, Any], tmp_path: Path
) -> None:
    async def work() -> None:
        await engines["rollout 0"].script.remote("hangs in sync")
        await engines["rollout 1"].script.remote("raises")
        joined = ranks["learner 0"].join.remote(make_client(engines), str(tmp_path))
        await make_waiting().all("the learner to join", {"learner 0": joined}, 30)

    began = time.monotonic()
    with pytest.raises(WorkerDiedError, match="rollout 1 failed: KeyError: 'no such device'"):
        run(work())
    assert time.monotonic() - began < 15  # not the 30 s of the limit


def test_a_sender_names_the_engine_that_hangs(
    ranks: dict[str, Any], engines: dict[str, Any], tmp_path: Path
) -> None:
    async def work() -> None:
        first = {"learner 0": ranks["learner 0"]}
        await ranks["learner 0"].join.remote(make_client(engines, timeout_s=1.0), str(tmp_path))
        await engines["rollout 0"].script.remote("hangs in sync")
        await EngineWeightSync(first, engines, make_waiting(), timeout_s=30).publish(1)

    with pytest.raises(WeightSyncError, match="to receive weights; no answer from rollout 0"):
        run(work())
