"""Plans against a real cluster: refused, held up, reserved and released."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import ray._private.state as ray_state
import ray.exceptions
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from rubric_rl.config.schema import ClusterConfig, Config
from rubric_rl.errors import ClusterError, PlacementError, WorkerTimeoutError
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.runtime import launch
from rubric_rl.runtime.cluster import node_resources, ray_cluster, reserve
from rubric_rl.runtime.placement import check_plan, plan_placement
from rubric_rl.runtime.preflight import Inputs

from .builders import make_config, make_waiting, packaged_prompts, run
from .fakes import FakeRolloutWorker

# The smallest that Ray can reserve for a worker here: 0.1 + 0.1 + 2 x 0.1 CPUs.
SMALL = ["cluster.learner_cpus=0.1", "cluster.rollout_cpus=0.1", "cluster.judge_cpus=0.1"]


def num_cpus() -> float:
    return ray.cluster_resources()["CPU"]


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


def actors() -> set[str]:
    """Every actor that this Ray has ever had."""
    return set(ray_state.actors())


def reserved_groups() -> list[str]:
    """Placement groups that are not removed."""
    table = placement_group_table().values()
    return [group["placement_group_id"] for group in table if group["state"] != "REMOVED"]


async def until_free(cpus: float) -> None:
    deadline = time.monotonic() + 20
    while not math.isclose(await asyncio.to_thread(free_cpus), cpus):
        assert time.monotonic() < deadline, f"{free_cpus()} CPUs are free, want {cpus}"
        await asyncio.sleep(0.1)


@pytest.fixture(autouse=True)
def all_free(cluster: None) -> None:
    """Resources of the test before come back with a delay."""
    asyncio.run(until_free(num_cpus()))


# ----------------------------------------------------------------------------
# Refused


def test_a_plan_larger_than_the_cluster_is_refused_with_the_sum() -> None:
    plan = plan_placement(make_config(f"cluster.learner_cpus={num_cpus():g}"))
    needed = re.escape(f"= {num_cpus() + 0.7:g} CPUs, the cluster has {num_cpus():g}")
    with pytest.raises(PlacementError, match=needed):
        check_plan(plan, ray.cluster_resources(), node_resources())


def test_a_plan_that_fits_is_accepted() -> None:
    check_plan(plan_placement(make_config(*SMALL)), ray.cluster_resources(), node_resources())


def test_a_run_with_too_many_workers_ends_before_any_actor_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inputs(_: Config) -> Inputs:
        train, _evals = packaged_prompts(8, 0)
        return Inputs(
            model_path="none",
            stop_token_ids=(),
            train_prompts=tuple(train),
            eval_prompts=(),
            rubrics=RubricSet(version=0, rubrics=()),
            dropped=(),
            judge_identity=None,
            judge_templates=JudgeTemplates.load(),
        )

    monkeypatch.setattr(launch, "check_inputs", inputs)
    monkeypatch.setattr(launch, "ray_cluster", lambda _: contextlib.nullcontext())
    before = actors(), reserved_groups()
    config = make_config(f"run.dir={tmp_path}", "rollout.num_workers=1000")
    with pytest.raises(PlacementError, match=r"1000 rollout workers x 0\.5 CPUs"):
        launch.run_training(config)
    assert (actors(), reserved_groups()) == before


# ----------------------------------------------------------------------------
# Held up


def test_resources_that_others_hold_are_waited_for_until_the_limit() -> None:
    shown: list[str] = []

    async def work() -> None:
        others = placement_group([{"CPU": num_cpus()}])
        await others.ready()
        try:
            plan = plan_placement(make_config(*SMALL))
            began = time.monotonic()
            with pytest.raises(WorkerTimeoutError, match="0 CPUs and 0 GPUs are free") as raised:
                await reserve(plan, make_waiting(shown), 2.5)
            assert time.monotonic() - began < 10
            workers = "1 learner rank, 1 rollout worker, 2 judge workers"
            assert f"waited 2 s for the cluster to reserve {workers}" in str(raised.value)
            assert shown[0] == f"waiting for the cluster to reserve {workers}, 2 s: 0 ready"
            assert reserved_groups() == [others.id.hex()]
        finally:
            remove_placement_group(others)
        await until_free(num_cpus())

    run(work())


# ----------------------------------------------------------------------------
# Reserved


def test_a_plan_is_reserved_its_actors_live_in_it_and_release_ends_them(log_dir: Path) -> None:
    async def work() -> None:
        reserved = await reserve(plan_placement(make_config(*SMALL)), make_waiting(), 30)
        await until_free(num_cpus() - 0.4)
        (placed,) = reserved.plan.of("rollout")
        engine: Any = reserved.create(placed, FakeRolloutWorker, f"{log_dir}/reserved.log")
        assert await engine.policy_version.remote() == 0
        await until_free(num_cpus() - 0.4)  # the actor lives off the reservation
        reserved.release()
        await until_free(num_cpus())
        with pytest.raises(ray.exceptions.RayActorError):
            await engine.policy_version.remote()
        assert reserved_groups() == []

    run(work())


# ----------------------------------------------------------------------------
# No cluster to join


@pytest.mark.parametrize("given", ["the setting", "RAY_ADDRESS"])
def test_a_dead_address_is_an_error_in_words_within_seconds(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        # Bound but not listening: a connection is refused.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if given == "RAY_ADDRESS":
            monkeypatch.setenv("RAY_ADDRESS", address)
        config = ClusterConfig(address="auto" if given == "RAY_ADDRESS" else address)
        began = time.monotonic()
        with (
            pytest.raises(ClusterError, match=rf"{address}.*refused.*cluster\.address=local"),
            ray_cluster(config),
        ):
            pass
    assert time.monotonic() - began < 20


def test_a_local_cluster_that_is_there_is_used_and_stays(cluster: None) -> None:
    before = {node["NodeID"] for node in ray.nodes()}
    with ray_cluster(ClusterConfig(address="local")):
        assert {node["NodeID"] for node in ray.nodes()} == before
    assert ray.is_initialized()


def test_what_ray_refuses_to_join_is_an_error_in_words() -> None:
    # In a process of its own: this one has joined a cluster.
    code = (
        "from rubric_rl.config.schema import ClusterConfig\n"
        "from rubric_rl.errors import ClusterError\n"
        "from rubric_rl.runtime.cluster import ray_cluster\n"
        "try:\n"
        "    with ray_cluster(ClusterConfig(address='nonsense')): pass\n"
        "except ClusterError as err: print(err)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "cluster.address='nonsense' can't be joined: ValueError: Invalid address" in done.stdout
