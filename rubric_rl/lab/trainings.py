"""Run the trainings of a plan: some processes side by side, each with its share of the runs.

A model of half a million parameters gains nothing from a second core, so two runs at a time
use two cores better than one after another; and Ray is started once for a share, not for a run.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rubric_rl.errors import RunFolderError
from rubric_rl.lab.plan import LabPlan, RunPlan

_TAIL_LINES = 12
_STOP_TIMEOUT_S = 120.0
_LOOK_EVERY_S = 2.0


async def run_trainings(plan: LabPlan, say: Callable[[str], None]) -> None:
    """Run what isn't complete; one that was stopped goes on from its checkpoint.

    Raises:
        RunFolderError: runs failed; the others have been carried to their end.
    """
    missing = [run for run in plan.runs if not plan.is_done(run)]
    shares = [share for first in range(plan.parallel) if (share := missing[first :: plan.parallel])]
    watching = asyncio.create_task(_tell(plan, missing, say))
    try:
        found = await asyncio.gather(*(_train(plan, n, share) for n, share in enumerate(shares)))
    finally:
        watching.cancel()
    if failures := [why for why in found if why]:
        raise RunFolderError("; ".join(failures) + ". The same command goes on with what is there")


async def _train(plan: LabPlan, number: int, share: Sequence[RunPlan]) -> str | None:
    """Which runs of the share failed and why; None if all are complete."""
    log = plan.out / "runs" / f"share{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rubric_rl.commands.lab_runs",
            json.dumps([plan.train_overrides(run) for run in share]),
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
    left = ", ".join(run.name for run in share if not plan.is_done(run))
    if not left:
        return None
    return f"{left} not complete, exit code {code}: {_why(log)} (all of it: {log})"


async def _tell(plan: LabPlan, missing: Sequence[RunPlan], say: Callable[[str], None]) -> None:
    """Name each run when it is complete."""
    open_runs = list(missing)
    while True:
        for run in [run for run in open_runs if plan.is_done(run)]:
            open_runs.remove(run)
            say(f"{run.name}: complete, {len(open_runs)} to go")
        await asyncio.sleep(_LOOK_EVERY_S)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask for a checkpoint and wait for it."""
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()


def _why(log: Path) -> str:
    """The errors that were told; without one the last lines."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return " / ".join(errors or lines[-_TAIL_LINES:])
