"""Ray itself: joining or starting a cluster, its resources, the placement group."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rubric_rl.config.schema import ClusterConfig
from rubric_rl.errors import ClusterError, WorkerTimeoutError
from rubric_rl.runtime.placement import (
    PlacedActor,
    PlacementPlan,
    Role,
    Strategy,
    bind_to_nodes,
    describe,
    threads_per_worker,
)
from rubric_rl.runtime.waiting import Waiting

_HOST_AND_PORT = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
_ANSWER_TIMEOUT_S = 10.0


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[None]:
    """Join the cluster, or start one here, for the time of the block.

    Where this process has a cluster already, `local` is that one, and it stays.

    Raises:
        ClusterError: nothing answers at the address, or Ray refuses.
    """
    if config.address == "local" and ray.is_initialized():
        yield
        return
    # Ray reports usage over the network and prints a notice unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this Ray warns that it will one day stop hiding GPUs from actors
    # that asked for none; the colocated engines set their devices themselves.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    _start_or_join(config)
    try:
        yield
    finally:
        ray.shutdown()


def _start_or_join(config: ClusterConfig) -> None:
    # As Ray does: None reads RAY_ADDRESS, and starts a local cluster if it isn't set.
    address = None if config.address == "auto" else config.address
    in_force = address or os.environ.get("RAY_ADDRESS")
    try:
        if in_force is not None:
            _require_answer(in_force)
        ray.init(
            address=address,
            # Of a cluster started here only; its dozen processes cost a small machine dear.
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            namespace="rubric_rl",
        )
    except Exception as err:  # the boundary to Ray, whose errors here have no common base
        raise ClusterError(_refusal(config.address, in_force, err)) from err


def _require_answer(address: str) -> None:
    """Raises OSError if nothing listens at `host:port`, which Ray tries for minutes."""
    match = _HOST_AND_PORT.fullmatch(address)
    if match:
        host, port = match["host"].strip("[]"), int(match["port"])
        socket.create_connection((host, port), timeout=_ANSWER_TIMEOUT_S).close()


def _refusal(setting: str, in_force: str | None, err: Exception) -> str:
    why = f"{type(err).__name__}: {err}"
    if in_force is None or in_force == "local":
        return f"Ray can't be started here (cluster.address={setting!r}): {why}"
    source = "" if in_force == setting else f" with RAY_ADDRESS={in_force!r}"
    return (
        f"cluster.address={setting!r}{source} can't be joined: {why}. Start Ray there (ray start "
        "--head), correct the address, or set cluster.address=local to start Ray here"
    )


def node_resources() -> list[dict[str, float]]:
    """Total resources of each live node, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedPlan:
    """A plan whose bundles Ray has reserved."""

    plan: PlacementPlan
    groups: dict[Strategy, PlacementGroup]
    bundle_nodes: tuple[str, ...]
    """Node of each bundle."""
    node_cpus: Mapping[str, float]
    """CPUs of each node of the cluster."""

    def threads_for(self, role: Role) -> int:
        """See `threads_per_worker`."""
        return threads_per_worker(self.plan, role, self.bundle_nodes, self.node_cpus)

    def create(self, actor: PlacedActor, worker: type, *args: object, **options: object) -> Any:
        """Start an actor in its first bundle. `options` are Ray's actor options."""
        bundle = actor.bundles[0]
        strategy = self.plan.bundles[bundle].strategy
        place = PlacementGroupSchedulingStrategy(
            self.groups[strategy],
            placement_group_bundle_index=self.plan.groups[strategy].index(bundle),
        )
        return (
            ray.remote(worker)
            .options(num_cpus=actor.cpus, num_gpus=actor.gpus, scheduling_strategy=place, **options)
            .remote(*args)
        )

    def release(self) -> None:
        """End every actor in it and free its resources."""
        for group in self.groups.values():
            remove_placement_group(group)


async def reserve(plan: PlacementPlan, waiting: Waiting, timeout_s: float) -> ReservedPlan:
    """Reserve the plan's bundles.

    Raises:
        WorkerTimeoutError: others held the resources for `timeout_s`.
        PlacementError: see `bind_to_nodes`.
    """
    groups: dict[Strategy, PlacementGroup] = {
        strategy: placement_group(
            [plan.bundles[index].resources for index in bundles], strategy=strategy
        )
        for strategy, bundles in plan.groups.items()
    }
    try:
        await _reserved(plan, groups, waiting, timeout_s)
        nodes = await asyncio.to_thread(_bundle_nodes, plan, groups)
        return ReservedPlan(
            plan=bind_to_nodes(plan, nodes),
            groups=groups,
            bundle_nodes=tuple(nodes),
            node_cpus={node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in ray.nodes()},
        )
    except BaseException:
        for group in groups.values():
            remove_placement_group(group)
        raise


def _bundle_nodes(plan: PlacementPlan, groups: Mapping[Strategy, PlacementGroup]) -> list[str]:
    """The node of each bundle of a plan that Ray has placed."""
    nodes: dict[int, str] = {}
    for strategy, bundles in plan.groups.items():
        placed = placement_group_table(groups[strategy])["bundles_to_node_id"]
        nodes |= {bundle: placed[index] for index, bundle in enumerate(bundles)}
    return [nodes[bundle] for bundle in range(len(plan.bundles))]


async def _reserved(
    plan: PlacementPlan,
    groups: Mapping[Strategy, PlacementGroup],
    waiting: Waiting,
    timeout_s: float,
) -> None:
    try:
        what = f"the cluster to reserve {plan.workers}"
        ready = {f"Ray ({strategy})": group.ready() for strategy, group in groups.items()}
        await waiting.all(what, ready, timeout_s)
    except WorkerTimeoutError:
        free = await asyncio.to_thread(ray.available_resources)
        raise WorkerTimeoutError(
            f"waited {timeout_s:.0f} s for the cluster to reserve {plan.workers}: "
            f"{free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} GPUs are free, others "
            "hold the rest. Wait until they end, lower what the workers reserve (below), or raise "
            f"cluster.start_timeout_s\n{describe(plan)}"
        ) from None
