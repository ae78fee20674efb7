"""Waits: what they show, and how they end."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions

from rubric_rl.errors import WorkerDiedError, WorkerTimeoutError
from rubric_rl.runtime import waiting

from .builders import LOG_DIR, make_waiting, run
from .fakes import UnstartableWorker


async def answers(engines: dict[str, Any], held: str) -> dict[str, Any]:
    """A call to each engine, which one of them holds back."""
    await engines[held].script.remote(held=True)
    return {label: engine.answer_when_released.remote() for label, engine in engines.items()}


def test_a_wait_shows_what_it_waits_for_how_long_it_has_lasted_and_how_many_are_ready(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_SHOW_EVERY_S", 0.1)
    shown: list[str] = []

    async def work() -> dict[str, str]:
        refs = await answers(engines, held="rollout 1")
        wait = asyncio.create_task(make_waiting(shown).all("2 rollout workers", refs, 30))
        await asyncio.sleep(1.3)
        await engines["rollout 1"].release.remote()
        return await wait

    assert run(work()) == {"rollout 0": "engine0", "rollout 1": "engine1"}
    assert all(re.fullmatch(r"waiting for 2 rollout workers, \d s: [01] ready", t) for t in shown)
    assert shown[-1] == "waiting for 2 rollout workers, 1 s: 1 ready"


def test_a_wait_ends_at_its_limit_and_names_who_has_not_answered(engines: dict[str, Any]) -> None:
    async def work() -> None:
        refs = await answers(engines, held="rollout 0")
        tasks, began = asyncio.all_tasks(), time.monotonic()
        with pytest.raises(
            WorkerTimeoutError, match=f"2 rollout workers; no answer from rollout 0.*{LOG_DIR}"
        ):
            await make_waiting().all("2 rollout workers", refs, 0.5)
        assert time.monotonic() - began < 10
        assert asyncio.all_tasks() == tasks

    run(work())


def test_of_actors_that_fail_together_the_first_is_named() -> None:
    async def died() -> None:
        raise ray.exceptions.ActorDiedError()

    async def work() -> None:
        # In place of references, which never fail in one turn of the event loop on demand.
        refs: dict[str, Any] = {f"learner {i}": died() for i in range(3)}
        await make_waiting().all("3 learner ranks", refs, 30)

    with pytest.raises(WorkerDiedError, match="the process of learner 0 ended unexpectedly"):
        run(work())


def test_an_actor_that_could_not_be_created_says_why(start: Any) -> None:
    async def work() -> None:
        await make_waiting().all(
            "1 learner rank", {"learner 0": start(UnstartableWorker).ready.remote()}, 30
        )

    with pytest.raises(
        WorkerDiedError, match="learner 0 could not be created: ValueError: no such device"
    ):
        run(work())


def test_what_an_actor_and_its_children_print_is_in_its_log(
    engines: dict[str, Any], log_dir: Path
) -> None:
    async def work() -> None:
        await engines["rollout 1"].say.remote("it is late")

    run(work())
    assert (log_dir / "rollout_1.log").read_text().count("it is late") == 2
