"""Runs a command so that nothing of it outlives whoever started it.

    python -m rubric_rl.judging.server_guard COMMAND ARGUMENT...    (standard input: a pipe)

An engine's server starts processes of its own, which hold gigabytes and don't notice when
the server is killed. The guard runs the command in a session of its own and ends all of
it when its standard input ends, which happens when whoever holds the pipe's other end
dies, in whatever way. Ray kills the children of an actor that it ends; the session's
leader is a grandchild, so it lives long enough to clean up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_GRACE_S = 5.0


def guarded(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` under a guard; give it a pipe as standard input."""
    return [sys.executable, "-m", "rubric_rl.judging.server_guard", *command]


def main(command: Sequence[str]) -> int:
    """Run the command to its end, or until standard input ends; returns its exit code."""
    leader = os.fork()
    if leader == 0:
        os.setsid()
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        is_ending = threading.Event()
        threading.Thread(target=_end_with_input, args=(server, is_ending), daemon=True).start()
        code = server.wait()
        if is_ending.is_set():
            time.sleep(2 * _GRACE_S)  # the other thread ends the session, this process too
        os._exit(code & 0xFF)
    _, status = os.waitpid(leader, 0)
    # A server that ended by itself may have left processes behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    return abs(os.waitstatus_to_exitcode(status))


def _end_with_input(server: subprocess.Popen[bytes], is_ending: threading.Event) -> None:
    """When nobody holds the pipe any more: ask the server to end, then end the whole session."""
    while os.read(0, 4096):
        pass
    is_ending.set()
    server.terminate()
    time.sleep(_GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
