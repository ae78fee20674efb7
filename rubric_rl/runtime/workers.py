"""Start the workers of a plan and wrap them as the controller's pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_rl.config.schema import Config
from rubric_rl.controller.interfaces import LearnerGroup, ReferenceGroup, WeightSync
from rubric_rl.errors import ClusterError
from rubric_rl.learner.spec import LearnerSpec, RankInfo
from rubric_rl.rollout.engine import EngineSpec
from rubric_rl.runtime.actors import (
    LearnerWorker,
    ReferenceWorker,
    RewardLearnerWorker,
    RolloutWorker,
)
from rubric_rl.runtime.cluster import ReservedPlan
from rubric_rl.runtime.judge_pool import RayJudgePool
from rubric_rl.runtime.judges import JudgeStart, start_judges, start_servers
from rubric_rl.runtime.learner_group import RayLearnerGroup
from rubric_rl.runtime.placement import PlacedActor, Role
from rubric_rl.runtime.reference_group import RayReferenceGroup
from rubric_rl.runtime.rollout_pool import RayRolloutPool
from rubric_rl.runtime.waiting import Waiting
from rubric_rl.runtime.weight_sync import (
    EngineWeightSync,
    ObjectStoreWeightSync,
    RayFleetClient,
    TurnTakingWeightSync,
    leave_device,
)
from rubric_rl.weight_sync.spec import SenderSpec

# glibc gives large blocks back to the kernel when they are freed. A step allocates
# the same blocks over and over; the page faults took a seventh of the CPU time.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """The running workers, as the controller sees them."""

    rollouts: RayRolloutPool
    judges: RayJudgePool
    learner: LearnerGroup
    reference: ReferenceGroup | None
    weight_sync: WeightSync


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What the workers need beside the configuration."""

    model_path: str
    stop_token_ids: tuple[int, ...]
    num_steps: int
    judge: JudgeStart
    run_file: Path | None = None
    """A file of the run's folder, which every learner rank must see; None: nobody looks."""


async def start_workers(
    config: Config, settings: WorkerSettings, reserved: ReservedPlan, waiting: Waiting
) -> Pools:
    """Start the workers side by side and wait until each is ready.

    Colocated on GPU the learner comes first: it holds a whole model for a moment
    before ZeRO shards it, and an engine measures free memory when it starts. What
    torch keeps of that moment would count as taken, so the learner gives it back.
    """
    timeout_s = config.cluster.start_timeout_s
    ranks = _create_learners(config, reserved, waiting.log_dir, LearnerWorker)
    if settings.run_file is not None:
        await require_shared_folder(config, settings.run_file, ranks, waiting)
    references = _create_references(config, reserved, waiting.log_dir)
    engines = _create_rollouts(config, reserved, waiting.log_dir)
    servers = start_servers(config, reserved, waiting.log_dir)
    gpu_ids = await _colocated_gpus(config, reserved, ranks, waiting)
    starts = await _start_learners(config, learner_spec(config, settings), ranks, reserved, waiting)
    starts |= _start_references(config, settings, references, reserved)
    if _takes_turns(config):
        await waiting.all("the learner to start", starts, timeout_s)
        await leave_device(ranks, waiting, timeout_s=timeout_s)
    spec = engine_spec(config, settings, num_threads=_rollout_threads(config, reserved))
    starts |= {
        label: engine.start.remote(config.rollout.engine, spec, gpu_ids[label])
        for label, engine in engines.items()
    }
    judges = await start_judges(config, settings.judge, reserved, servers, waiting)
    await waiting.all(reserved.plan.workers, starts, timeout_s)
    return Pools(
        rollouts=RayRolloutPool(
            engines,
            waiting,
            sample_timeout_s=config.cluster.step_timeout_s,
            takes_turns=_takes_turns(config),
            places=config.rollout.max_concurrent_samples,
            run=config.run.name,
        ),
        judges=judges,
        learner=RayLearnerGroup(ranks, waiting, timeout_s=config.cluster.step_timeout_s),
        reference=RayReferenceGroup(references, waiting, timeout_s=config.cluster.step_timeout_s)
        if references
        else None,
        weight_sync=await _weight_sync(config, ranks, engines, waiting),
    )


async def start_learners(
    config: Config,
    spec: LearnerSpec,
    reserved: ReservedPlan,
    waiting: Waiting,
    worker: type[LearnerWorker] | type[RewardLearnerWorker],
    run_file: Path,
) -> RayLearnerGroup:
    """The learner ranks of a plan that holds nothing else, once each is ready.

    `run_file`: see `WorkerSettings`.
    """
    ranks = _create_learners(config, reserved, waiting.log_dir, worker)
    await require_shared_folder(config, run_file, ranks, waiting)
    starts = await _start_learners(config, spec, ranks, reserved, waiting)
    await waiting.all(reserved.plan.workers, starts, config.cluster.start_timeout_s)
    return RayLearnerGroup(ranks, waiting, timeout_s=config.cluster.step_timeout_s)


async def require_shared_folder(
    config: Config, run_file: Path, ranks: Mapping[str, Any], waiting: Waiting
) -> None:
    """Every rank writes its part of a checkpoint, the first of which may be hours away.

    Raises:
        ClusterError: the folder of the run isn't there for some ranks.
    """
    seen = await waiting.all(
        "the learner ranks to look at the run's folder",
        {label: rank.sees.remote(str(run_file)) for label, rank in ranks.items()},
        config.cluster.start_timeout_s,
    )
    if blind := [label for label, sees in seen.items() if not sees]:
        raise ClusterError(
            f"{run_file} isn't there on the node of {', '.join(blind)}: set run.dir to an absolute "
            f"path on storage that all nodes share (it is {config.run.dir!r})"
        )


# ----------------------------------------------------------------------------
# What each worker is given


def engine_spec(config: Config, settings: WorkerSettings, *, num_threads: int) -> EngineSpec:
    """One rollout engine's settings."""
    rollout, on_gpu = config.rollout, config.cluster.device == "gpu"
    return EngineSpec(
        model_path=settings.model_path,
        stop_token_ids=settings.stop_token_ids,
        trust_remote_code=config.model.trust_remote_code,
        dtype=config.rollout_dtype,
        max_model_tokens=config.max_sequence_tokens,
        tensor_parallel_size=rollout.tensor_parallel_size,
        max_concurrent_samples=rollout.max_concurrent_samples,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        kv_cache_gib=rollout.kv_cache_gib,
        enforce_eager=rollout.enforce_eager,
        # Queueing a whole step first would hold back a generation that runs ahead.
        deterministic=rollout.deterministic and config.algorithm.max_staleness == 0,
        weight_transport=config.weight_transport,
        sleep_mode=on_gpu and config.cluster.placement == "colocated",
        seed=config.run.seed,
        device=config.cluster.device,
        num_threads=num_threads,
    )


def learner_spec(config: Config, settings: WorkerSettings) -> LearnerSpec:
    """What every learner rank is built from."""
    return LearnerSpec(
        model_path=settings.model_path,
        model=config.model,
        learner=config.learner,
        algorithm=config.algorithm,
        device=config.cluster.device,
        num_steps=settings.num_steps,
        seed=config.run.seed,
    )


def _environment(config: Config, num_threads: int) -> dict[str, dict[str, str]]:
    variables = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(num_threads)}
    if config.cluster.device == "cpu":
        variables |= {"DS_ACCELERATOR": "cpu", **_KEEP_MEMORY}
    return {"env_vars": variables}


def _log_path(log_dir: str, actor: PlacedActor) -> str:
    return f"{log_dir}/{actor.role}_{actor.index}.log"


# ----------------------------------------------------------------------------
# Actors


def _create_learners(
    config: Config, reserved: ReservedPlan, log_dir: str, worker: type
) -> dict[str, Any]:
    environment = _environment(config, _learner_threads(config, reserved, "learner"))
    return {
        actor.label: reserved.create(
            actor, worker, _log_path(log_dir, actor), runtime_env=environment
        )
        for actor in reserved.plan.of("learner")
    }


def _create_references(config: Config, reserved: ReservedPlan, log_dir: str) -> dict[str, Any]:
    environment = _environment(config, _learner_threads(config, reserved, "reference"))
    return {
        actor.label: reserved.create(
            actor, ReferenceWorker, _log_path(log_dir, actor), runtime_env=environment
        )
        for actor in reserved.plan.of("reference")
    }


def _create_rollouts(config: Config, reserved: ReservedPlan, log_dir: str) -> dict[str, Any]:
    environment = _environment(config, _rollout_threads(config, reserved))
    return {
        actor.label: reserved.create(
            actor, RolloutWorker, _log_path(log_dir, actor), runtime_env=environment
        )
        for actor in reserved.plan.of("rollout")
    }


def _learner_threads(config: Config, reserved: ReservedPlan, role: Role) -> int:
    return config.learner.num_threads or reserved.threads_for(role)


def _rollout_threads(config: Config, reserved: ReservedPlan) -> int:
    return config.rollout.num_threads or reserved.threads_for("rollout")


async def _start_learners(
    config: Config,
    spec: LearnerSpec,
    ranks: dict[str, Any],
    reserved: ReservedPlan,
    waiting: Waiting,
) -> dict[str, Any]:
    first = next(iter(ranks))
    found = await waiting.all(
        "the first learner rank",
        {first: ranks[first].address.remote()},
        config.cluster.start_timeout_s,
    )
    address, port = found[first]
    threads = _learner_threads(config, reserved, "learner")
    return {
        label: rank.start.remote(
            spec,
            RankInfo(rank=index, num_ranks=len(ranks), master_address=address, master_port=port),
            threads,
        )
        for index, (label, rank) in enumerate(ranks.items())
    }


def _start_references(
    config: Config, settings: WorkerSettings, workers: dict[str, Any], reserved: ReservedPlan
) -> dict[str, Any]:
    spec = learner_spec(config, settings)
    threads = _learner_threads(config, reserved, "reference")
    return {
        label: worker.start.remote(spec, index, len(workers), threads)
        for index, (label, worker) in enumerate(workers.items())
    }


async def _colocated_gpus(
    config: Config, reserved: ReservedPlan, ranks: dict[str, Any], waiting: Waiting
) -> dict[str, list[str]]:
    """Devices of each engine, where Ray gives it none of its own."""
    engines = reserved.plan.of("rollout")
    if config.cluster.device == "cpu" or config.cluster.placement == "disaggregated":
        return {engine.label: [] for engine in engines}
    held = await waiting.all(
        "learner ranks to name their devices",
        {label: rank.gpu_ids.remote() for label, rank in ranks.items()},
        config.cluster.start_timeout_s,
    )
    gpus_of_bundle = {a.bundles[0]: held[a.label] for a in reserved.plan.of("learner")}
    return {
        engine.label: [gpu for bundle in engine.bundles for gpu in gpus_of_bundle[bundle]]
        for engine in engines
    }


# ----------------------------------------------------------------------------
# Weight sync


def _takes_turns(config: Config) -> bool:
    return config.cluster.device == "gpu" and config.cluster.placement == "colocated"


async def _weight_sync(
    config: Config, ranks: dict[str, Any], engines: dict[str, Any], waiting: Waiting
) -> WeightSync:
    timeout_s = config.cluster.sync_timeout_s
    if config.weight_transport == "object_store":
        inner = ObjectStoreWeightSync(ranks, engines, waiting, timeout_s=timeout_s)
    else:
        await _connect_engines(config, ranks, engines, waiting)
        inner = EngineWeightSync(ranks, engines, waiting, timeout_s=timeout_s)
    if _takes_turns(config):
        return TurnTakingWeightSync(inner, ranks, waiting, timeout_s=timeout_s)
    return inner


async def _connect_engines(
    config: Config, ranks: dict[str, Any], engines: dict[str, Any], waiting: Waiting
) -> None:
    timeout_s = config.cluster.sync_timeout_s
    first = next(iter(ranks))
    found = await waiting.all("learner 0", {first: ranks[first].address.remote()}, timeout_s)
    address, port = found[first]
    client = RayFleetClient(
        engines,
        processes_per_engine=config.rollout.tensor_parallel_size,
        log_dir=waiting.log_dir,
        timeout_s=timeout_s,
    )
    assert config.weight_transport != "object_store"
    refs = {
        label: rank.connect_engines.remote(
            SenderSpec(
                transport=config.weight_transport,
                rank=index,
                master_address=address,
                master_port=port,
                num_engine_processes=len(engines) * config.rollout.tensor_parallel_size,
            ),
            client,
        )
        for index, (label, rank) in enumerate(ranks.items())
    }
    await waiting.all(
        f"learner and engines to join over {config.weight_transport}", refs, timeout_s
    )
