"""Time of a step, from stated rates: decoding bound by bandwidth, learning by arithmetic.

One decoding step of an engine reads its weights and the keys and values of all
running samples once, and takes 2 operations for each weight and sample:

    s = max((weights + running x context x kv) / (bandwidth x share),
            2 x weights x running / (peak x share)) + overhead
    rollout = prompts' reading + completion tokens x (s of a full wave x their number
              + s of the last one)

A learner's token takes 2 operations for each weight forward and 4 backward, 2 more
each where activations are recomputed and where a reference copy is asked:

    learner = tokens x weights x (6 + 2 + 2) / (ranks x peak x share)

Attention's scores are left out, as in the metric `learner/flop_per_s`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rubric_rl.config.schema import Config
from rubric_rl.controller.checkpoint_size import DTYPE_BYTES
from rubric_rl.planning.accounts import count
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.engine_memory import EngineMemory
from rubric_rl.planning.hardware import Gpu
from rubric_rl.planning.learner_memory import trained_parameters
from rubric_rl.planning.model_shape import ModelShape
from rubric_rl.planning.workload import Workload

_GIGA, _TERA = 1e9, 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """A part of a step."""

    what: str
    seconds: float
    formula: str
    """With its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Of one step; without evaluations and checkpoints."""

    parts: tuple[Duration, ...]
    overlaps: bool
    """Generation runs ahead while the learner works."""

    @property
    def seconds(self) -> float:
        """Of a step. Where generation runs ahead, the slower of generation and learning."""
        by_name = {part.what: part.seconds for part in self.parts}
        if not self.overlaps:
            return sum(by_name.values())
        generation = by_name["rollout"] + by_name["judge wait"]
        return max(generation, by_name["learner"]) + by_name["weight sync"]

    @property
    def rollout_s(self) -> float:
        """Of generation alone, as evaluations do it."""
        return next(part.seconds for part in self.parts if part.what == "rollout")


def step_time(
    config: Config,
    shape: ModelShape,
    work: Workload,
    engine: EngineMemory,
    gpu: Gpu,
    assumptions: Assumptions,
) -> StepTime | None:
    """Of one step; None where the GPU's rates are not known."""
    if gpu.tflops is None or gpu.bandwidth_gbs is None:
        return None
    rollout = rollout_time(config, shape, work, engine, gpu, assumptions)
    return StepTime(
        parts=(
            rollout,
            _judge_wait(config, work, rollout.seconds, assumptions),
            _learner(config, shape, work, gpu, assumptions),
            _weight_sync(config, shape, assumptions),
        ),
        overlaps=config.algorithm.max_staleness > 0,
    )


def rollout_time(
    config: Config,
    shape: ModelShape,
    work: Workload,
    engine: EngineMemory,
    gpu: Gpu,
    assumptions: Assumptions,
) -> Duration:
    """Of a step's samples on their engines."""
    assert gpu.tflops is not None and gpu.bandwidth_gbs is not None
    figures, size = work.figures, engine.settings.tensor_parallel_size
    samples = math.ceil(work.samples_per_step / config.rollout.num_workers)
    running = max(1, min(samples, running_samples(engine, work)))
    waves, rest = divmod(samples, running)
    sizes = [running] * waves + ([rest] if rest else [])
    context = figures.prompt_tokens + figures.completion_tokens / 2
    steps = [decode_step(engine, n, context, gpu, assumptions) for n in sizes]
    peak = gpu.tflops * _TERA * assumptions.prefill_utilization * size
    prompts = math.ceil(samples / config.rollout.samples_per_prompt)
    prefill = 2 * shape.num_parameters * prompts * figures.prompt_tokens / peak
    last = f", {rest} x {1000 * steps[-1].seconds:.1f} ms" if rest else ""
    return Duration(
        what="rollout",
        seconds=prefill + figures.completion_tokens * sum(step.seconds for step in steps),
        formula=(
            f"{prefill:.1f} s of reading {prompts} prompts + {figures.completion_tokens:g} tokens "
            f"of {waves} x {running} samples x {1000 * steps[0].seconds:.1f} ms{last} "
            f"({steps[0].formula})"
        ),
    )


def decode_step(
    engine: EngineMemory, running: int, context: float, gpu: Gpu, assumptions: Assumptions
) -> Duration:
    """One token of each of `running` samples that have `context` tokens behind them."""
    assert gpu.tflops is not None and gpu.bandwidth_gbs is not None
    settings = engine.settings
    parameters, size = settings.shape.num_parameters, settings.tensor_parallel_size
    read = settings.dtype_bytes * parameters / size + running * context * settings.kv_bytes
    from_memory = read / (gpu.bandwidth_gbs * _GIGA * assumptions.bandwidth_utilization)
    peak = gpu.tflops * _TERA * assumptions.prefill_utilization * size
    from_arithmetic = 2 * parameters * running / peak
    if from_memory >= from_arithmetic:
        share = assumptions.bandwidth_utilization
        why = f"{count(read)} B / ({gpu.bandwidth_gbs:g} GB/s x {share:g})"
    else:
        why = f"{count(2 * parameters * running)} operations / {count(peak)} a second"
    return Duration(
        what="decoding step",
        seconds=max(from_memory, from_arithmetic) + assumptions.decode_overhead_s,
        formula=f"{why} + {1000 * assumptions.decode_overhead_s:g} ms",
    )


def running_samples(engine: EngineMemory, work: Workload) -> int:
    """Samples that an engine decodes at once: as configured, or as many as the KV cache holds.

    They grow while they are decoded, so half of a completion counts; a prompt is held once
    for all its samples.
    """
    figures, samples = work.figures, work.samples_per_prompt
    held = engine.kv_tokens / (figures.prompt_tokens / samples + figures.completion_tokens / 2)
    return min(engine.settings.max_concurrent, int(held))


def _judge_wait(
    config: Config, work: Workload, rollout_s: float, assumptions: Assumptions
) -> Duration:
    """Judging streams beside the rollout: what is longer than it is waited for, and one call."""
    calls, at_once = work.judging_per_step.calls, judge_concurrency(config)
    if not calls:
        return Duration(what="judge wait", seconds=0.0, formula="no calls")
    each = assumptions.judge_call_s
    whole = calls * each / at_once
    return Duration(
        what="judge wait",
        seconds=max(0.0, whole - rollout_s) + each,
        formula=(
            f"{count(calls)} calls x {each:g} s / {at_once} at once = {whole:.0f} s beside the "
            f"rollout, and one call of {each:g} s"
        ),
    )


def judge_concurrency(config: Config) -> int:
    """Judge calls that may be out at once, by what bounds them first."""
    judge = config.judge
    pool = judge.num_workers * judge.max_in_flight_per_worker
    return min(judge.budget.max_concurrency, pool)


def _learner(
    config: Config, shape: ModelShape, work: Workload, gpu: Gpu, assumptions: Assumptions
) -> Duration:
    assert gpu.tflops is not None
    learner = config.learner
    trained = (
        2 if not learner.lora.enabled else 2 * trained_parameters(config, shape) / _body(shape)
    )
    passes = [2.0, 2.0 + trained]
    if learner.gradient_checkpointing:
        passes.append(2.0)
    if learner.resolved_reference in ("copy", "lora_base"):
        passes.append(2.0)
    each = sum(passes)
    flop = each * _body(shape) * work.tokens_per_step
    rate = learner.num_workers * gpu.tflops * _TERA * assumptions.flop_utilization
    terms = " + ".join(f"{term:.2g}" for term in passes)
    return Duration(
        what="learner",
        seconds=flop / rate,
        formula=(
            f"{count(work.tokens_per_step)} tokens x {count(_body(shape))} x ({terms}) / "
            f"({learner.num_workers} x {gpu.tflops:g} TFLOP/s x {assumptions.flop_utilization:g})"
        ),
    )


def _body(shape: ModelShape) -> int:
    """Weights that a token is multiplied with: all but the embedding, the head included."""
    return shape.body_parameters + shape.table_parameters


def _weight_sync(config: Config, shape: ModelShape, assumptions: Assumptions) -> Duration:
    """All weights once over the link; colocated, ZeRO 3's moments and gradients twice too."""
    weights = DTYPE_BYTES[config.learner.dtype] * shape.num_parameters
    moved = 0.0
    parts = f"{count(weights)} B"
    colocated = config.cluster.device == "gpu" and config.cluster.placement == "colocated"
    if colocated and config.learner.zero_stage == 3 and not config.learner.offload_optimizer:
        each = 8 + DTYPE_BYTES[config.learner.dtype]
        moved = 2 * each * trained_parameters(config, shape) / config.learner.num_workers
        parts = f"({parts} of weights + 2 x {count(moved / 2)} B of moments and gradients)"
    return Duration(
        what="weight sync",
        seconds=(weights + moved) / (assumptions.link_gbs * _GIGA),
        formula=f"{parts} / {assumptions.link_gbs:g} GB/s",
    )
