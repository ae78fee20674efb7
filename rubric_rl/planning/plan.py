"""A whole plan: memory of each kind of worker, work, time, and what can't be.

Pure: of a configuration, a model's shape, a cluster and figures of the prompts.
Placement is `runtime.placement`'s; who calls this checks it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rubric_rl.config.schema import Config
from rubric_rl.planning.accounts import Account
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.engine_memory import (
    EngineMemory,
    engine_memory,
    judge_server,
    rollout_engine,
)
from rubric_rl.planning.hardware import GIB, Cluster
from rubric_rl.planning.learner_memory import (
    LearnerMemory,
    learner_memory,
    reference_memory,
)
from rubric_rl.planning.model_shape import ModelShape
from rubric_rl.planning.timing import StepTime, running_samples, step_time
from rubric_rl.planning.workload import PromptFigures, Workload, workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Shapes of the models that a run loads."""

    policy: ModelShape
    judge: ModelShape | None = None
    """Of judge servers that the run starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What a run will take."""

    config: Config
    cluster: Cluster
    models: Models
    assumptions: Assumptions
    learner: LearnerMemory
    engine: EngineMemory
    reference: Account | None
    judge: EngineMemory | None
    work: Workload
    time: StepTime | None
    """None: on CPU, or where the GPU's rates are not known."""
    problems: tuple[str, ...]
    """Why it can't be, and what to change."""
    notes: tuple[str, ...]
    """What will be slow or dear."""

    @property
    def takes_turns(self) -> bool:
        """Learner and engine share a GPU."""
        cluster = self.config.cluster
        return cluster.device == "gpu" and cluster.placement == "colocated"

    @property
    def run_s(self) -> float | None:
        """Of the whole run; an evaluation at the pace of the rollout."""
        if self.time is None:
            return None
        per_sample = self.time.rollout_s / self.work.samples_per_step
        evaluations = self.work.evaluations * self.work.samples_per_evaluation * per_sample
        return self.work.steps * self.time.seconds + evaluations


def make_plan(
    config: Config,
    models: Models,
    cluster: Cluster,
    figures: PromptFigures,
    assumptions: Assumptions,
) -> TrainingPlan:
    """Work everything out. Raises ModelError for adapters on layers that aren't there."""
    memory = (cluster.gpu.memory_gib if cluster.gpu else None) or 0.0
    learner = learner_memory(config, models.policy, assumptions)
    engine = engine_memory(rollout_engine(config, models.policy), assumptions, memory)
    reference = None
    if config.learner.resolved_reference == "actor":
        reference = reference_memory(config, models.policy, assumptions)
    judge = None
    if models.judge is not None:
        judge = engine_memory(judge_server(config, models.judge), assumptions, memory)
    work = workload(config, figures, assumptions)
    time = None
    if config.cluster.device == "gpu" and cluster.gpu is not None and engine.kv_tokens:
        time = step_time(config, models.policy, work, engine, cluster.gpu, assumptions)
    parts = _Checked(config, cluster, learner, engine, reference, judge, work)
    return TrainingPlan(
        config=config,
        cluster=cluster,
        models=models,
        assumptions=assumptions,
        learner=learner,
        engine=engine,
        reference=reference,
        judge=judge,
        work=work,
        time=time,
        problems=tuple(parts.problems()),
        notes=tuple(parts.notes()),
    )


@dataclass(frozen=True, slots=True)
class _Checked:
    config: Config
    cluster: Cluster
    learner: LearnerMemory
    engine: EngineMemory
    reference: Account | None
    judge: EngineMemory | None
    work: Workload

    def problems(self) -> Iterator[str]:
        if self.config.cluster.device == "cpu":
            yield from self._engine_fits(self.engine)
            yield from self._host_memory_of_cpu_run()
            return
        gpu = self.cluster.gpu
        if gpu is None:
            return  # the placement says so
        if gpu.memory_gib is None:
            yield (
                f"the memory of {gpu.name!r} is not known, so nothing can be told of it: give "
                "--gpu-memory-gib"
            )
            return
        yield from self._on_gpu(gpu.memory_gib)
        yield from self._host_memory()

    def notes(self) -> Iterator[str]:
        running = running_samples(self.engine, self.work)
        wanted = min(
            self.engine.settings.max_concurrent,
            -(-self.work.samples_per_step // self.config.rollout.num_workers),
        )
        if self.engine.kv_tokens and running < wanted:
            yield (
                f"the KV cache holds about {running} of {wanted} samples that an engine has at "
                f"once; the others wait: raise {self.engine.settings.memory_key}{self._up_to()}"
            )
        limit, cost = self.config.judge.budget.max_cost_usd, self.work.judging.usd
        if limit is not None and cost is not None and cost > limit:
            yield (
                f"judging costs about {cost:.2f} USD, more than judge.budget.max_cost_usd="
                f"{limit:g}: the run would stop before its end"
            )

    def _up_to(self) -> str:
        gpu, cluster = self.cluster.gpu, self.config.cluster
        if gpu is None or not gpu.memory_gib or cluster.placement != "colocated":
            return ""
        most = self._most_for_engines(gpu.memory_gib)
        return f" (at most {most:g} beside the learner)" if most else ""

    # ------------------------------------------------------------------------

    def _on_gpu(self, memory: float) -> Iterator[str]:
        colocated = self.config.cluster.placement == "colocated"
        asleep = sum(part.num_bytes for part in self.engine.asleep) / GIB if colocated else 0.0
        peak = self.learner.peak
        if peak.gib + asleep > memory:
            beside = f" beside a sleeping engine's {asleep:.1f} GiB" if colocated else ""
            yield (
                f"a learner rank needs {peak.gib:.1f} GiB in the {peak.when}{beside}, a GPU has "
                f"{memory:g}: {self._learner_remedy(peak)}"
            )
        yield from self._engine_fits(self.engine)
        if self.judge is not None:
            yield from self._engine_fits(self.judge)
        if colocated and self.learner.starting.gib + self.engine.limit_gib > memory:
            share, most = self.config.rollout.gpu_memory_utilization, self._most_for_engines(memory)
            lower = f"lower it to {most:g}, or " if most else ""
            yield (
                f"while engines start a learner rank has {self.learner.starting.gib:.1f} GiB, and "
                f"rollout.gpu_memory_utilization={share:g} takes {self.engine.limit_gib:.1f} of "
                f"{memory:g} GiB: {lower}use learner=zero3 or more ranks"
            )
        if self.reference is not None and self.reference.gib > memory:
            yield (
                f"a reference worker needs {self.reference.gib:.1f} GiB, a GPU has {memory:g}: use "
                "learner.reference=copy with learner=zero3"
            )

    def _most_for_engines(self, memory: float) -> float:
        """The largest share of a GPU, in whole hundredths, that a colocated learner leaves."""
        return max(0, int(100 * (1 - self.learner.starting.gib / memory))) / 100

    def _learner_remedy(self, peak: Account) -> str:
        learner = self.config.learner
        remedies: list[str] = []
        if learner.zero_stage < 3:
            remedies.append("learner=zero3")
        if not learner.gradient_checkpointing:
            remedies.append("learner.gradient_checkpointing=true")
        if learner.micro_batch_tokens > self.config.max_sequence_tokens:
            remedies.append(f"learner.micro_batch_tokens={self.config.max_sequence_tokens}")
        if not learner.offload_optimizer:
            remedies.append("learner.offload_optimizer=true")
        largest = max(peak.items, key=lambda part: part.num_bytes)
        remedies.append(f"more ranks (largest part: {largest.what}, {largest.num_bytes / GIB:.1f})")
        return f"try {', '.join(remedies)}"

    def _engine_fits(self, engine: EngineMemory) -> Iterator[str]:
        settings = engine.settings
        least = settings.max_model_tokens * settings.kv_bytes / GIB
        if engine.kv_cache_gib >= least:
            return
        yield (
            f"a {settings.label} takes {engine.limit_gib:.1f} GiB of a device, of which "
            f"{engine.fixed.gib:.1f} are weights and work space: {max(0, engine.kv_cache_gib):.1f} "
            f"are left for KV cache, one sequence of {settings.max_model_tokens} tokens needs "
            f"{least:.1f}: raise {settings.memory_key} or the tensor_parallel_size"
        )

    def _host_memory(self) -> Iterator[str]:
        """Learner ranks on one node, as many as it has GPUs, with what they keep on the host."""
        for node in dict.fromkeys(self.cluster.nodes):
            ranks = min(node.gpus, self.config.learner.num_workers)
            needed = ranks * self.learner.host.gib
            if node.memory_gib is not None and needed > node.memory_gib:
                yield (
                    f"{ranks} learner ranks on one node keep {needed:.0f} GiB in host memory "
                    f"({', '.join(part.what for part in self.learner.host.items)}), the node has "
                    f"{node.memory_gib:.0f}: use more nodes, or run.checkpoint_writing=sync"
                )

    def _host_memory_of_cpu_run(self) -> Iterator[str]:
        """All processes of a CPU run in the memory of all nodes together."""
        memories = [node.memory_gib for node in self.cluster.nodes]
        known = [memory for memory in memories if memory is not None]
        if len(known) < len(memories):
            return
        ranks, engines = self.config.learner.num_workers, self.config.rollout.num_workers
        needed = ranks * self.learner.peak.gib + engines * self.engine.limit_gib
        if self.judge is not None and self.config.judge.llm is not None:
            needed += self.config.judge.llm.hosted.num_engines * self.judge.limit_gib
        if needed > sum(known):
            yield (
                f"{ranks} learner ranks x {self.learner.peak.gib:.1f} GiB + {engines} engines x "
                f"{self.engine.limit_gib:.1f} GiB = {needed:.1f} GiB (judge servers included), "
                f"there are {sum(known):.1f}: use a smaller model, learner.micro_batch_tokens or "
                "rollout.kv_cache_gib"
            )
