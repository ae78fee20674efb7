"""What this machine has: cores, memory, GPUs. Asks the system, no library of CUDA's."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
_MIB_PER_GIB = 1024
_TIMEOUT_S = 20.0
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHere:
    """One GPU, as its driver names it."""

    name: str
    memory_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is."""

    cores: int
    """That this process may use."""
    memory_gib: float | None
    """Of the host; None where the system doesn't tell."""
    gpus: tuple[GpuHere, ...]


def this_machine() -> Machine:
    """Ask the system."""
    return Machine(
        cores=len(os.sched_getaffinity(0)), memory_gib=_memory_gib(), gpus=_gpus(_driver())
    )


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    except (ValueError, OSError):
        return None


def _driver() -> str:
    """What NVIDIA's tool prints; empty without it or without a GPU."""
    try:
        done = subprocess.run(
            _QUERY, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _gpus(listing: str) -> tuple[GpuHere, ...]:
    """Of lines such as `NVIDIA H100 80GB HBM3, 81559`, the memory in MiB."""
    found: list[GpuHere] = []
    for line in listing.splitlines():
        name, _, memory = line.rpartition(",")
        if name and memory.strip().isdecimal():
            found.append(GpuHere(name=name.strip(), memory_gib=int(memory) / _MIB_PER_GIB))
    return tuple(found)


def shared_memory_gib(path: Path = Path("/dev/shm")) -> float | None:
    """Free space of the machine's shared memory, where Ray keeps objects; None if there is none."""
    try:
        stats = os.statvfs(path)
    except OSError:
        return None
    return stats.f_bavail * stats.f_frsize / GIB
