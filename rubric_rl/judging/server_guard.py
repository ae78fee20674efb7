"""Runs a command so that nothing of it outlives whoever started it.

    python -m rubric_rl.judging.server_guard COMMAND ARGUMENT...

An engine's server starts processes of its own, which hold gigabytes and don't notice when the
server is killed. The guard leads a session that they are all in; Linux tells it when its
parent dies, and then it ends them all.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0


def guarded(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` under a guard; start it in a session of its own."""
    return [sys.executable, "-m", "rubric_rl.judging.server_guard", *command]


def main(command: Sequence[str]) -> int:
    """Run the command to its end, or until this process is told to end."""
    signal.signal(signal.SIGTERM, _end_all)
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before it could be watched
        return 1
    return subprocess.Popen(command).wait()


def _end_all(_number: int, _frame: object) -> None:
    """Ask every process of the session to end, then end what is left, this one included."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
