"""Nothing of a guarded command outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Starts the guard and waits; the guarded command starts a child of its own, as an engine does.
PARENT = """
import pathlib, subprocess, sys
from rubric_rl.judging.server_guard import guarded
command = [sys.executable, "-c", {child!r}]
guard = subprocess.Popen(guarded(command), stdin=subprocess.PIPE)
pathlib.Path({path!r}).write_text(str(guard.pid))
guard.wait()
"""
CHILD = """
import os, pathlib, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({path!r}).write_text(f"{{os.getpid()}} {{grandchild.pid}}")
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("kills_guard", [False, True])
def test_killing_the_parent_ends_the_command_and_all_that_it_started(
    tmp_path: Path, kills_guard: bool
) -> None:
    """Also when the guard is killed with it, as Ray does with the children of an actor."""
    pids, guard_pid = tmp_path / "pids", tmp_path / "guard"
    script = PARENT.format(child=CHILD.format(path=str(pids)), path=str(guard_pid))
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    started = [int(pid) for pid in pids.read_text().split()]
    assert all(is_alive(pid) for pid in started)
    os.kill(parent.pid, signal.SIGKILL)
    if kills_guard:
        os.kill(int(guard_pid.read_text()), signal.SIGKILL)
    parent.wait()
    assert until(lambda: not any(is_alive(pid) for pid in started))


def test_a_command_that_ends_by_itself_leaves_nothing_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    child = CHILD.format(path=str(pids)).replace("time.sleep(600)\n", "sys.exit(4)\n")
    command = [sys.executable, "-m", "rubric_rl.judging.server_guard", sys.executable, "-c", child]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.wait(30) == 4
    started = [int(pid) for pid in pids.read_text().split()]
    assert until(lambda: not any(is_alive(pid) for pid in started))


def test_the_commands_exit_code_is_the_guards() -> None:
    command = [sys.executable, "-m", "rubric_rl.judging.server_guard"]
    command += [sys.executable, "-c", "raise SystemExit(3)"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.wait(30) == 3
