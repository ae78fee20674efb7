"""One budget for the cluster: separate processes share a limit, as the server itself sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

HERE = Path(__file__).parent
DRIVER = HERE / "shared_budget_driver.py"
SERVER = HERE.parent / "bench" / "latency_server.py"

REQUESTS_PER_MINUTE = 60
SAMPLES_PER_RUN = 40


@pytest.fixture
def server() -> Iterator[str]:
    command = [sys.executable, str(SERVER), "--median-s=0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        process.terminate()


def arrivals(base_url: str) -> list[float]:
    """When each chat request reached the server, in seconds."""
    url = base_url.removesuffix("/v1") + "/stats"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        return json.load(answer)["arrivals"]


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= t < start + 60.0 for t in times) for start in times)


@pytest.mark.timeout(240)
def test_two_runs_of_two_workers_never_exceed_their_common_limit_at_the_server(
    cluster: None, server: str, tmp_path: Path
) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, str(DRIVER), address, server]
    numbers = [str(REQUESTS_PER_MINUTE), str(SAMPLES_PER_RUN)]
    runs = [
        subprocess.Popen(
            [*command, *numbers, name, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for name in ("run-a", "run-b")
    ]
    outputs = [run.communicate(timeout=200)[0] for run in runs]
    known = [json.loads(output.strip().splitlines()[-1])["known"] for output in outputs]
    assert known == [SAMPLES_PER_RUN, SAMPLES_PER_RUN]
    times = arrivals(server)
    assert len(times) == 2 * SAMPLES_PER_RUN
    # More were wanted than one minute allows, so a limit for each run alone would be exceeded.
    assert most_in_a_minute(times) <= REQUESTS_PER_MINUTE
    assert max(times) - min(times) > 55.0
