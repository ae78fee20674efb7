"""What each actor does to its own process before anything else."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


def redirect_output(path: str) -> None:
    """Send everything that this process and its children print to a file.

    On the descriptors, so that it catches what C libraries and engine processes
    print. On a node without the run folder's file system the file is local.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def free_port() -> int:
    """A port that is free now. Another process could take it before it is used; the
    rendezvous that uses it then fails at once instead of hanging."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
