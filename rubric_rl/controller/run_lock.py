"""One live process for each run folder.

The lock is advisory and belongs to the open file, so the system takes it back
when the process ends, in whatever way.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path

from rubric_rl.errors import RunFolderError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"

# Open until this process ends. By the file, since a folder may be deleted and made anew.
_held: dict[tuple[int, int], int] = {}


def lock_run_folder(root: Path) -> None:
    """Keep other processes out of the folder for as long as this one lives.

    Again in the same process it does nothing. Where the file system has no
    locks, it warns and goes on.

    Raises:
        RunFolderError: another live process holds it.
        OSError: the lock file can't be made.
    """
    path = root / LOCK_FILE
    # Asked before it is opened: on some file systems closing a second descriptor unlocks.
    if path.exists() and _key(path.stat()) in _held:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        is_taken = _take(descriptor, root)
    except RunFolderError:
        os.close(descriptor)
        raise
    if is_taken:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held[_key(os.fstat(descriptor))] = descriptor


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _take(descriptor: int, root: Path) -> bool:
    """False if there are no locks here. Raises RunFolderError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        holder = os.pread(descriptor, 200, 0).decode("utf-8", errors="replace").strip()
        raise RunFolderError(
            f"run.dir={str(root)!r} is in use by {holder or 'another process'}: wait until it "
            "ends or stop it, or set another run.dir"
        ) from err
    except OSError as err:
        logger.warning(
            "%s is on a file system without locks (%s): make sure that no other process uses "
            "this run folder",
            root,
            err,
        )
        return False
    return True
