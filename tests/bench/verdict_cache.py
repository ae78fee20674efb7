"""How many verdicts a second the cache reads and writes.

    .venv/bin/python tests/bench/verdict_cache.py [FOLDER] [SECONDS]

For batches of 8 and 20 keys, as one sample's criteria are looked up and stored,
by one process alone and by four at once on one file. FOLDER decides which disk
is measured; it must not hold a cache yet.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rubric_rl.judging.cache import CachedVerdict, VerdictCache
from rubric_rl.types import VerdictValue

BATCHES = (8, 20)
PROCESSES = (1, 4)
FILLED = 20_000
VERDICT = CachedVerdict(
    value=VerdictValue.MET,
    reason="The answer names the dose and says when to see a doctor. " * 3,
    probability=0.93,
    votes=(),
    tokens=171.5,
    cost_usd=0.00012,
)


def _key(number: int) -> str:
    return f"{number:064x}"


def _rate(operation: Callable[[int], object], seconds: float) -> float:
    """Calls of `operation` a second."""
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        operation(count)
        count += 1
    return count / (time.perf_counter() - started)


def _measure(directory: Path, kind: str, batch: int, seconds: float) -> float:
    cache = VerdictCache(directory)
    if kind == "get":
        slots = FILLED // batch
        rate = _rate(
            lambda i: cache.get([_key((i * 7919 % slots) * batch + j) for j in range(batch)]),
            seconds,
        )
    else:
        rate = _rate(
            lambda i: cache.put({secrets.token_hex(32): VERDICT for _ in range(batch)}), seconds
        )
    assert cache.num_failed == 0
    return rate


def _measured(directory: Path, kind: str, batch: int, processes: int, seconds: float) -> float:
    jobs = [(directory, kind, batch, seconds)] * processes
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return sum(pool.starmap(_measure, jobs))


def main() -> None:
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        directory = Path(name)
        filled = VerdictCache(directory)
        filled.put({_key(number): VERDICT for number in range(FILLED)})
        filled.close()
        print(f"{os.cpu_count()} cores, {FILLED} verdicts, {filled.size_bytes / 1e6:.1f} MB")
        print("op   keys  processes   calls/s  verdicts/s   ms/call of one process")
        for kind in ("get", "put"):
            for batch in BATCHES:
                for processes in PROCESSES:
                    rate = _measured(directory, kind, batch, processes, seconds)
                    print(
                        f"{kind}  {batch:5d}  {processes:9d}  {rate:8.0f}  {rate * batch:10.0f}"
                        f"  {1000 * processes / rate:9.3f}"
                    )


if __name__ == "__main__":
    main()
