"""A cluster of two Ray nodes on this machine, and a training submitted to it as a job.

`ray start` twice, one CPU each, so that no node holds all workers. The job is submitted by
`launch/ray_job.sh` through the job API, stopped, and submitted again: it goes on. Real Ray,
vLLM and DeepSpeed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_actors

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NUM_STEPS = 4
START_S = 120
JOB_S = 420


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_until(what: str, timeout_s: float, done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := done()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.5)
    return found


# Ray's own variables would reach the nodes, and `ray job submit` after them.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoNodes:
    """A running cluster."""

    address: str
    dashboard: str
    client: JobSubmissionClient
    run_dir: Path
    model_dir: Path

    def submit(self, submission_id: str) -> None:
        """As a user does, then return at once."""
        environment = {
            **ENVIRONMENT,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "SUBMISSION_ID": submission_id,
            "NO_WAIT": "1",
            "RAY": str(BIN / "ray"),
        }
        command = ["bash", str(ROOT / "launch" / "ray_job.sh"), *self.overrides()]
        subprocess.run(command, env=environment, check=True, timeout=120)

    def overrides(self) -> list[str]:
        return [
            "experiment=quickstart_cpu",
            f"run.dir={self.run_dir}",
            f"run.max_steps={NUM_STEPS}",
            "run.checkpoint_every_steps=1",
            "run.keep_checkpoints=1",
            "run.eval_every_steps=100",
            "run.eval_samples_per_prompt=1",
            f"model.name_or_path={self.model_dir}",
            "rollout.prompts_per_step=2",
            "rollout.samples_per_prompt=4",
            "rollout.max_new_tokens=16",
            "logging.wandb.mode=disabled",
        ]

    def ended(self, submission_id: str) -> JobStatus:
        def status() -> JobStatus | None:
            now = self.client.get_job_status(submission_id)
            return now if now.is_terminal() else None

        return wait_until(f"the end of {submission_id}", JOB_S, status)

    def steps(self) -> list[int]:
        path = self.run_dir / "metrics.jsonl"
        if not path.exists():
            return []
        complete = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        return [json.loads(line)["step"] for line in complete]

    def workers_by_node(self) -> dict[str, set[str]]:
        """Names of the classes of our living actors, by node."""
        found: dict[str, set[str]] = {}
        living: list[Any] = list_actors(address=self.dashboard, filters=[("state", "=", "ALIVE")])
        for actor in living:
            if str(actor.class_name).endswith("Worker"):
                found.setdefault(str(actor.node_id), set()).add(str(actor.class_name))
        return found


def start_node(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    # With --block the node's processes are children of this one and end with it.
    command = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", *arguments]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=ENVIRONMENT, stdout=output, stderr=output, start_new_session=True
        )


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def two_nodes(
    small_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoNodes]:
    root = tmp_path_factory.mktemp("two_nodes")
    port, dashboard_port = free_ports(2)
    dashboard = f"http://127.0.0.1:{dashboard_port}"
    head = start_node(
        root / "head.log",
        "--head",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        f"--dashboard-port={dashboard_port}",
        f"--temp-dir={short_folder()}",
    )
    nodes = [head]
    try:
        wait_until("the dashboard", START_S, lambda: is_up(f"{dashboard}/api/version"))
        nodes.append(start_node(root / "worker.log", f"--address=127.0.0.1:{port}"))
        wait_until("two nodes", START_S, lambda: num_nodes(dashboard) == 2)
        yield TwoNodes(
            address=f"127.0.0.1:{port}",
            dashboard=dashboard,
            client=JobSubmissionClient(dashboard),
            run_dir=root / "run",
            model_dir=small_model_dir,
        )
    finally:
        stop(nodes)
        shutil.rmtree(root / "run" / "checkpoints", ignore_errors=True)


def num_nodes(dashboard: str) -> int:
    with urllib.request.urlopen(f"{dashboard}/nodes?view=summary", timeout=10) as answer:
        summary = json.load(answer)["data"]["summary"]
    return sum(node["raylet"]["state"] == "ALIVE" for node in summary)


def short_folder() -> str:
    """Of a name that leaves room for Ray's sockets, whose paths have at most 107 bytes."""
    return tempfile.mkdtemp(prefix="ray2_")


def stop(nodes: list[subprocess.Popen[bytes]]) -> None:
    for node in reversed(nodes):
        node.send_signal(signal.SIGTERM)
    for node in nodes:
        try:
            node.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_the_doctor_looks_at_both_nodes(two_nodes: TwoNodes) -> None:
    done = subprocess.run(
        [str(BIN / "rubric-rl"), "doctor", *two_nodes.overrides()],
        env={**ENVIRONMENT, "RAY_ADDRESS": two_nodes.address},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "\nok    nodes          2 nodes have python, packages, " in done.stdout, done.stdout
    assert done.returncode == 0


@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_a_submitted_job_uses_both_nodes_and_goes_on_after_a_stop(two_nodes: TwoNodes) -> None:
    two_nodes.submit("first")
    wait_until("step 1", JOB_S, lambda: 1 in two_nodes.steps() or failed(two_nodes, "first"))
    by_node = two_nodes.workers_by_node()
    assert len(by_node) == 2, by_node
    assert {"LearnerWorker", "RolloutWorker", "JudgeWorker"} <= set().union(*by_node.values())
    assert two_nodes.client.stop_job("first")
    assert two_nodes.ended("first") == JobStatus.STOPPED
    done = two_nodes.steps()
    assert 1 <= max(done) < NUM_STEPS

    two_nodes.submit("second")
    assert two_nodes.ended("second") == JobStatus.SUCCEEDED, logs(two_nodes, "second")
    assert two_nodes.steps() == list(range(NUM_STEPS + 1))
    assert f"step {max(done) + 1}/{NUM_STEPS}" in logs(two_nodes, "second")
    assert f"step {max(done)}/{NUM_STEPS}" not in logs(two_nodes, "second")


def failed(two_nodes: TwoNodes, submission_id: str) -> bool:
    assert two_nodes.client.get_job_status(submission_id) != JobStatus.FAILED, logs(
        two_nodes, submission_id
    )
    return False


def logs(two_nodes: TwoNodes, submission_id: str) -> str:
    return two_nodes.client.get_job_logs(submission_id)
