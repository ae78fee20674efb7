"""Run the trainings of a plan, each as `rubric-rl train` in a process of its own, some at a time.

A model of a million parameters gains nothing from a second core, and most of a start is spent
importing, so two runs side by side, a thread each, use two cores better than one after another.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rubric_rl.errors import RunFolderError
from rubric_rl.lab.plan import LabPlan, RunPlan

_TAIL_LINES = 12
_STOP_TIMEOUT_S = 120.0


async def run_trainings(plan: LabPlan, say: Callable[[str], None]) -> None:
    """Run what isn't complete; one that was stopped goes on from its checkpoint.

    Raises:
        RunFolderError: a run failed; the others have been carried to their end.
    """
    places = asyncio.Semaphore(plan.parallel)
    missing = [run for run in plan.runs if not plan.is_done(run)]

    async def one(run: RunPlan) -> str | None:
        async with places:
            return await _train(plan, run, say)

    failures = [why for why in await asyncio.gather(*map(one, missing)) if why]
    if failures:
        raise RunFolderError("; ".join(failures) + ". The same command goes on with what is there")


async def _train(plan: LabPlan, run: RunPlan, say: Callable[[str], None]) -> str | None:
    """Why it failed; None if it is complete."""
    began = time.monotonic()
    log = plan.out / "runs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{run.name}: training")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rubric_rl.train",
            *plan.train_overrides(run),
            stdout=output,
            stderr=output,
            # A session of its own: Ctrl-C reaches it through us, once.
            start_new_session=True,
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
    if code != 0 or not plan.is_done(run):
        return f"run {run.name} ended with exit code {code}: {_tail(log)} (all of it: {log})"
    say(f"{run.name}: complete in {time.monotonic() - began:.0f} s")
    return None


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask for a checkpoint and wait for it."""
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(lines[-_TAIL_LINES:])
