"""The machine: devices, shared memory, ports, the compiler, and the run folder's disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from rubric_rl.doctor.findings import Finding, fail, ok, warn
from rubric_rl.observability.machine import Machine

_GIB = 2**30
# Docker's default is 64 MiB; Ray's object store and vLLM's processes want gigabytes.
_SHARED_MEMORY_GIB = 2.0
_DISK_GIB = 10.0
_GIGA = 1e9
# Products are most of an update, not all of it: less would hardly be seen.
_NOTABLY = 1.2
_TIMEOUT_S = 120.0
# What DeepSpeed's extension needs: C++17, OpenMP, Python's headers.
_SOURCE = """
#include <Python.h>
#include <omp.h>
#include <optional>
extern "C" int threads() { return std::optional<int>(omp_get_max_threads()).value(); }
"""


def check_machine(machine: Machine, device: Literal["cpu", "gpu"]) -> Finding:
    """Cores, memory, GPUs; a GPU run that is submitted to a cluster needs none here."""
    memory = "memory unknown" if machine.memory_gib is None else f"{machine.memory_gib:.0f} GiB"
    kinds = [f"{gpu.name} ({gpu.memory_gib:.0f} GiB)" for gpu in machine.gpus]
    gpus = f"{len(kinds)} GPUs: {', '.join(dict.fromkeys(kinds))}" if kinds else "no GPU"
    text = f"{machine.cores} cores, {memory}, {gpus}"
    if device == "gpu" and not machine.gpus:
        return warn(
            "machine",
            f"{text}, but cluster.device=gpu",
            "run it on the cluster (RAY_ADDRESS, launch/), or set cluster=cpu; if there is a GPU "
            "here, nvidia-smi must show it",
        )
    return ok("machine", text)


def check_shared_memory(free_gib: float | None) -> Finding:
    """Free space of /dev/shm."""
    remedy = (
        f"start the container with --shm-size of {_SHARED_MEMORY_GIB:g} GB or more, or mount a "
        "memory-backed volume at /dev/shm; without it Ray's object store is on the disk"
    )
    if free_gib is None:
        return warn("shared memory", "/dev/shm is not there", remedy)
    text = f"{free_gib:.1f} GiB free in /dev/shm"
    if free_gib < _SHARED_MEMORY_GIB:
        return warn("shared memory", text, remedy)
    return ok("shared memory", text)


def check_ports(connect: Callable[[], str]) -> Finding:
    """Workers reach one another over ports that they open. `connect` names the address."""
    try:
        address = connect()
    except OSError as err:
        return fail(
            "ports",
            f"a process here can't reach a port that another opens ({err})",
            "let the firewall pass traffic of the machine with itself, and see that its name "
            "resolves to an address of its own (/etc/hosts)",
        )
    return ok("ports", f"a port that is opened at {address} can be reached")


def connect_to_self() -> str:
    """Open a port at this machine's own address, connect to it, and name the address.

    Raises:
        OSError: it can't be opened or reached.
    """
    address = _own_address()
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port), timeout=10.0):
            return address


def _own_address() -> str:
    """Of the interface that leads outside; without any, this machine's loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a range for documentation; nothing is sent
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def check_compiler(build: Callable[[], str]) -> Finding:
    """DeepSpeed and torch compile extensions when a run starts. `build` names the compiler."""
    try:
        return ok("compiler", f"{build()} builds an extension with OpenMP")
    except (OSError, subprocess.SubprocessError) as err:
        return fail(
            "compiler",
            f"no C++ extension can be built ({_last_line(err)})",
            "install g++ and Python's headers (Debian: g++ python3.11-dev), and ninja",
        )


def build_extension() -> str:
    """Compile a small shared object as an extension is; name the compiler.

    Raises:
        OSError, subprocess.SubprocessError: there is no compiler or no ninja, or it fails.
    """
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("there is neither c++ nor g++")
    scripts = sysconfig.get_path("scripts")
    if shutil.which("ninja") is None and shutil.which("ninja", path=scripts) is None:
        raise FileNotFoundError("there is no ninja")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "probe.cpp", Path(folder) / "probe.so"
        source.write_text(_SOURCE, encoding="utf-8")
        include = sysconfig.get_path("include")
        command = [compiler, "-std=c++17", "-shared", "-fPIC", "-fopenmp", f"-I{include}"]
        subprocess.run(
            [*command, str(source), "-o", str(library)],
            check=True,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    return compiler


def _last_line(err: Exception) -> str:
    """Of a compiler the first error that it tells."""
    if isinstance(err, subprocess.CalledProcessError) and err.stderr:
        lines = str(err.stderr).splitlines()
        return next((line for line in lines if "error" in line), lines[-1])
    return str(err)


def check_number_type(dtype: str, measure: Callable[[], Mapping[str, float]]) -> Finding:
    """Whether `learner.dtype` is the faster one. `measure` gives FLOP/s of a matrix product."""
    rates = measure()
    told = ", ".join(f"{name} {rate / _GIGA:.0f}" for name, rate in rates.items())
    text = f"learner.dtype={dtype}; products here in GFLOP/s: {told}"
    best = max(rates, key=lambda name: rates[name])
    if rates[best] > _NOTABLY * rates[dtype]:
        return warn("number type", text, f"learner.dtype={best} is faster on these cores")
    return ok("number type", text)


def check_run_dir(folder: str, try_writing: Callable[[Path], float]) -> Finding:
    """`run.dir` can be made and written. `try_writing` gives the disk's free GiB."""
    try:
        free_gib = try_writing(Path(folder))
    except OSError as err:
        return fail("run folder", f"run.dir={folder!r} can't be written ({err})", "set run.dir")
    text = f"run.dir={folder!r} can be written, {free_gib:.0f} GiB free"
    if free_gib < _DISK_GIB:
        return warn("run folder", text, "free space; checkpoints take 12 to 16 bytes a parameter")
    return ok("run folder", text)


def check_shared(marker: Path) -> Finding:
    """Whether a file that another node wrote beside the run's folder is seen here."""
    if marker.exists():
        return ok("shared folder", f"{str(marker.parent)!r} is the driver's")
    return warn(
        "shared folder",
        f"a file that the driver wrote into {str(marker.parent)!r} is not seen",
        "set run.dir to storage that every node sees, or keep learner workers off this node",
    )


def nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    return existing


def write_there(folder: Path) -> float:
    """Write into the nearest folder that exists, leave nothing, and give its disk's free GiB.

    Raises:
        OSError: it can't be written.
    """
    existing = nearest_folder(folder)
    with tempfile.TemporaryDirectory(dir=existing) as made:
        (Path(made) / "probe").write_bytes(b"x")
    return shutil.disk_usage(existing).free / _GIB
