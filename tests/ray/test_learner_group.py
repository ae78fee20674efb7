"""Learner ranks as one learner."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.errors import ClusterError, LearnerDivergedError, RunFolderError, WorkerDiedError
from rubric_rl.observability.checksums import FileDigest
from rubric_rl.runtime.learner_group import RayLearnerGroup
from rubric_rl.runtime.workers import require_shared_folder
from rubric_rl.types import UpdateResult

from .builders import LOG_DIR, make_batch, make_config, make_waiting, run
from .fakes import FakeLearnerWorker


def make_group(ranks: dict[str, Any]) -> RayLearnerGroup:
    return RayLearnerGroup(ranks, make_waiting(), timeout_s=40.0)


async def update(ranks: dict[str, Any], *troubles: str) -> UpdateResult:
    """One step, with one trouble for each rank or none at all."""
    for rank, trouble in zip(ranks.values(), troubles or ["none"] * len(ranks), strict=True):
        await rank.script.remote(trouble)
    return await make_group(ranks).update(make_batch())


def test_every_rank_updates_and_rank_0_speaks_for_them(ranks: dict[str, Any]) -> None:
    async def work() -> tuple[UpdateResult, list[list[str]]]:
        result = await update(ranks)
        return result, [await rank.events.remote() for rank in ranks.values()]

    result, events = run(work())
    assert (result.policy_version, result.loss) == (1, 0.0)  # a rank's loss is its number
    assert events == [["update 1"], ["update 1"]]


def test_a_saved_learner_is_loaded_at_its_version(ranks: dict[str, Any], tmp_path: Path) -> None:
    async def work() -> int:
        await update(ranks)
        await make_group(ranks).save(tmp_path, in_background=False)
        for rank in ranks.values():
            await rank.script.remote()
        return await make_group(ranks).load(tmp_path)

    assert run(work()) == 1


def test_a_save_in_the_background_is_asked_for_until_every_rank_is_done(
    ranks: dict[str, Any], tmp_path: Path
) -> None:
    async def work() -> tuple[dict[str, FileDigest], UpdateResult]:
        group = make_group(ranks)
        await update(ranks)
        await group.save(tmp_path, in_background=True)
        writing = asyncio.create_task(group.written())
        return await writing, await group.update(make_batch())

    files, result = run(work())
    assert sorted(files) == ["rng_rank_0.pt", "rng_rank_1.pt"]
    assert {file.num_bytes for file in files.values()} == {0}
    assert result.policy_version == 2


def test_a_run_folder_that_a_rank_does_not_see_is_told_before_anything_is_loaded(
    ranks: dict[str, Any], tmp_path: Path
) -> None:
    config, run_file = make_config("run.dir=runs/x"), tmp_path / "run.json"
    with pytest.raises(ClusterError, match=r"learner 0, learner 1: set run.dir to an absolute"):
        run(require_shared_folder(config, run_file, ranks, make_waiting()))
    run_file.touch()
    run(require_shared_folder(config, run_file, ranks, make_waiting()))


def test_a_rank_that_can_not_write_says_why(ranks: dict[str, Any], tmp_path: Path) -> None:
    async def work() -> None:
        await list(ranks.values())[1].script.remote("has a full disk")
        await make_group(ranks).save(tmp_path, in_background=True)
        await make_group(ranks).written()

    with pytest.raises(RunFolderError, match=r"^no space left$"):
        run(work())


def test_divergence_arrives_as_it_was_raised(ranks: dict[str, Any]) -> None:
    with pytest.raises(LearnerDivergedError, match=r"^the loss is nan$") as raised:
        run(update(ranks, "diverges", "diverges"))
    assert type(raised.value) is LearnerDivergedError


def test_what_else_a_rank_raises_is_told_with_its_name_and_log(
    ranks: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    message = f"learner 0 failed: KeyError: 'no such parameter'. Its log is in {LOG_DIR}"
    with caplog.at_level("INFO"), pytest.raises(WorkerDiedError, match=f"^{message}$"):
        run(update(ranks, "raises", "none"))
    assert "fakes.py" in caplog.text  # the traceback is in the run's log


def test_the_death_of_a_rank_is_told_at_once_while_another_is_blocked(
    start: Any, log_dir: Path
) -> None:
    ranks = {
        f"learner {i}": start(FakeLearnerWorker, f"{log_dir}/learner_{i}_dying.log", i)
        for i in range(2)
    }

    async def work() -> float:
        began = time.monotonic()
        with pytest.raises(WorkerDiedError, match="the process of learner 1 ended unexpectedly"):
            await update(ranks, "blocks", "dies")
        return time.monotonic() - began

    assert run(work()) < 25  # not the 40 s of the limit; the ranks are started in it too
