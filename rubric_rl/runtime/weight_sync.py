"""Weight sync over Ray: the learner's weights to every engine, then the check.

    object_store   learner ranks --buckets--> object store --> each engine (one call)
    nccl, ipc      learner ranks --vLLM's own engines--> each engine, driven by rank 0

Either way the sync ends when every engine has been asked for its version.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
import ray.exceptions

from rubric_rl.errors import WeightSyncError
from rubric_rl.runtime.waiting import Waiting, as_own_error
from rubric_rl.types import SyncReport


class _Publisher:
    """What both kinds share: bounded calls and the comparison of versions."""

    def __init__(
        self,
        ranks: Mapping[str, Any],
        engines: Mapping[str, Any],
        waiting: Waiting,
        *,
        timeout_s: float,
    ) -> None:
        """`ranks`, `engines`: actor handles by label."""
        self._ranks = ranks
        self._engines = engines
        self._waiting = waiting
        self._timeout_s = timeout_s

    async def publish(self, policy_version: int) -> SyncReport:
        """See `WeightSync.publish`."""
        started = time.perf_counter()
        await self._transfer(policy_version)
        refs = {label: engine.policy_version.remote() for label, engine in self._engines.items()}
        served = await self._waiting.all("engines to name their version", refs, self._timeout_s)
        wrong = {label: version for label, version in served.items() if version != policy_version}
        if wrong:
            raise WeightSyncError(
                f"after the sync of policy version {policy_version} these engines serve another: "
                + ", ".join(f"{label} serves {version}" for label, version in wrong.items())
            )
        return SyncReport(seconds=time.perf_counter() - started, versions=tuple(served.values()))

    async def _transfer(self, policy_version: int) -> None:
        raise NotImplementedError


class ObjectStoreWeightSync(_Publisher):
    """Through Ray's object store."""

    async def _transfer(self, policy_version: int) -> None:
        puts = {label: rank.put_weights.remote() for label, rank in self._ranks.items()}
        packed = await self._waiting.all("the learner to pack weights", puts, self._timeout_s)
        buckets = next(bucket_refs for bucket_refs in packed.values() if bucket_refs)
        loads = {
            label: engine.load_weights.remote(buckets, policy_version)
            for label, engine in self._engines.items()
        }
        await self._waiting.all(
            f"{len(loads)} engines to load policy version {policy_version}", loads, self._timeout_s
        )


class EngineWeightSync(_Publisher):
    """Through vLLM's weight-transfer engines; `connect` them first."""

    async def _transfer(self, policy_version: int) -> None:
        sends = {
            label: rank.send_weights.remote(policy_version) for label, rank in self._ranks.items()
        }
        await self._waiting.all(
            f"the learner to send policy version {policy_version}", sends, self._timeout_s
        )


class TurnTakingWeightSync:
    """Afterwards the learner leaves the device to the engines (colocated on GPU)."""

    def __init__(
        self, inner: _Publisher, ranks: Mapping[str, Any], waiting: Waiting, *, timeout_s: float
    ) -> None:
        self._inner = inner
        self._ranks = ranks
        self._waiting = waiting
        self._timeout_s = timeout_s

    async def publish(self, policy_version: int) -> SyncReport:
        """See `WeightSync.publish`."""
        report = await self._inner.publish(policy_version)
        await leave_device(self._ranks, self._waiting, timeout_s=self._timeout_s)
        return report


async def leave_device(ranks: Mapping[str, Any], waiting: Waiting, *, timeout_s: float) -> None:
    """Have the learner ranks make room for an engine on the same GPUs, cached blocks too."""
    refs = {label: rank.offload.remote() for label, rank in ranks.items()}
    await waiting.all("the learner to leave the device", refs, timeout_s)


class RayFleetClient:
    """What vLLM's trainer engines call on learner rank 0: every rollout worker at once.

    Synchronous, because those engines are. Each call is bounded.
    """

    def __init__(
        self,
        engines: Mapping[str, Any],
        *,
        processes_per_engine: int,
        log_dir: str,
        timeout_s: float,
    ) -> None:
        self._engines = dict(engines)
        self._processes_per_engine = processes_per_engine
        self._log_dir = log_dir
        self._timeout_s = timeout_s
        self.policy_version = 0
        """Set before each send: vLLM's engines do not hand it through."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each engine's processes take the ranks after those of the engine before."""
        self._wait(
            "join the transfer group",
            {
                label: engine.init_weight_transfer.remote(self._for_engine(init_info, index))
                for index, (label, engine) in enumerate(self._engines.items())
            },
        )

    def _for_engine(self, init_info: dict[str, Any], index: int) -> dict[str, Any]:
        if "rank_offset" not in init_info:
            return init_info
        offset = init_info["rank_offset"] + index * self._processes_per_engine
        return {**init_info, "rank_offset": offset}

    def start_weight_update(self) -> None:
        self._wait("start a weight update", self._call("start_weight_update"))

    def update_weights(self, update_info: Any) -> None:
        self._wait("receive weights", self._call("update_weights", update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        version = self.policy_version if weight_version is None else int(weight_version)
        self._wait("finish a weight update", self._call("finish_weight_update", version))

    def _call(self, method: str, *args: object) -> dict[str, Any]:
        return {
            label: getattr(engine, method).remote(*args) for label, engine in self._engines.items()
        }

    def _wait(self, what: str, refs: Mapping[str, Any]) -> None:
        """An engine's error is raised at once: the others may wait for that engine."""
        label_of = {ref: label for label, ref in refs.items()}
        deadline = time.monotonic() + self._timeout_s
        pending = list(label_of)
        while pending:
            ready, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                names = ", ".join(label_of[ref] for ref in pending)
                raise WeightSyncError(
                    f"waited {self._timeout_s:.0f} s for engines to {what}; no answer from "
                    f"{names}. See their logs, or raise cluster.sync_timeout_s"
                )
            for ref in ready:
                self._get(label_of[ref], ref)

    def _get(self, label: str, ref: Any) -> None:
        try:
            ray.get(ref)
        except ray.exceptions.RayError as err:
            raise as_own_error(label, self._log_dir, err) from None
