"""Memory of a vLLM engine, and how many samples it can decode at once.

vLLM takes a share of the device (`gpu_memory_utilization`). Weights, the activations
of the largest batch, graphs and its process come out of that; what is left is KV cache:

    bytes of a token = 2 (key, value) x layers x key-value heads x head_dim x b / shards
"""

from __future__ import annotations

from dataclasses import dataclass

from rubric_rl.config.schema import Config
from rubric_rl.controller.checkpoint_size import DTYPE_BYTES
from rubric_rl.planning.accounts import Account, Item, count, item
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.hardware import GIB
from rubric_rl.planning.model_shape import ModelShape

# vLLM's default for an engine that is neither its server nor its offline class.
_BATCHED_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One engine, of the rollout or of a hosted judge."""

    label: str
    shape: ModelShape
    dtype_bytes: int
    tensor_parallel_size: int
    max_model_tokens: int
    max_concurrent: int
    memory_share: float
    """Of the device; on CPU `kv_cache_gib` counts."""
    memory_key: str
    """Name of the setting that sizes it, for messages."""
    kv_cache_gib: float
    has_graphs: bool
    on_gpu: bool

    @property
    def kv_shards(self) -> int:
        """Devices that share a token's keys and values; beyond one a head they are repeated."""
        return min(self.tensor_parallel_size, self.shape.num_kv_heads)

    @property
    def kv_bytes(self) -> float:
        """Of one token, on one device."""
        return self.shape.kv_bytes_per_token(self.dtype_bytes) / self.kv_shards


def rollout_engine(config: Config, shape: ModelShape) -> EngineSettings:
    """The settings of `rollout`."""
    rollout, on_gpu = config.rollout, config.cluster.device == "gpu"
    return EngineSettings(
        label="rollout engine",
        shape=shape,
        dtype_bytes=DTYPE_BYTES[config.rollout_dtype],
        tensor_parallel_size=rollout.tensor_parallel_size,
        max_model_tokens=config.max_sequence_tokens,
        max_concurrent=rollout.max_concurrent_samples,
        memory_share=rollout.gpu_memory_utilization,
        memory_key="rollout.gpu_memory_utilization" if on_gpu else "rollout.kv_cache_gib",
        kv_cache_gib=rollout.kv_cache_gib,
        has_graphs=on_gpu and not rollout.enforce_eager,
        on_gpu=on_gpu,
    )


def judge_server(config: Config, shape: ModelShape) -> EngineSettings:
    """The settings of `judge.llm.hosted`."""
    assert config.judge.llm is not None
    hosted, on_gpu = config.judge.llm.hosted, config.cluster.device == "gpu"
    key = "gpu_memory_utilization" if on_gpu else "kv_cache_gib"
    return EngineSettings(
        label="judge server",
        shape=shape,
        dtype_bytes=4 if hosted.dtype == "float32" else 2,
        tensor_parallel_size=hosted.tensor_parallel_size,
        max_model_tokens=hosted.max_model_tokens,
        max_concurrent=hosted.max_concurrent,
        memory_share=hosted.gpu_memory_utilization,
        memory_key=f"judge.llm.hosted.{key}",
        kv_cache_gib=hosted.kv_cache_gib,
        has_graphs=on_gpu and not hosted.enforce_eager,
        on_gpu=on_gpu,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Of one device of an engine."""

    settings: EngineSettings
    fixed: Account
    """All but the KV cache."""
    limit_gib: float
    """What vLLM takes in all; on CPU, what it comes to."""

    @property
    def kv_cache_gib(self) -> float:
        """What is left for it; below 0 if nothing is."""
        return self.limit_gib - self.fixed.gib

    @property
    def kv_tokens(self) -> int:
        """Tokens that it holds."""
        return max(0, int(self.kv_cache_gib * GIB / self.settings.kv_bytes))

    @property
    def concurrent_longest(self) -> float:
        """Sequences of the longest length that it holds."""
        return self.kv_tokens / self.settings.max_model_tokens

    @property
    def asleep(self) -> tuple[Item, ...]:
        """What stays on the device while a colocated learner works (vLLM's sleep, level 2)."""
        return tuple(part for part in self.fixed.items if part.what in ("process", "CUDA graphs"))


def engine_memory(
    settings: EngineSettings, assumptions: Assumptions, memory_gib: float
) -> EngineMemory:
    """Of one device of `memory_gib`, which is not read on CPU."""
    fixed = Account(when=settings.label, items=tuple(_fixed(settings, assumptions)))
    if settings.on_gpu:
        limit = settings.memory_share * memory_gib
    else:
        limit = fixed.gib + settings.kv_cache_gib
    return EngineMemory(settings=settings, fixed=fixed, limit_gib=limit)


def _fixed(settings: EngineSettings, assumptions: Assumptions) -> list[Item]:
    shape, b, size = settings.shape, settings.dtype_bytes, settings.tensor_parallel_size
    over = "" if size == 1 else f" / {size} GPUs"
    parameters, tokens = shape.num_parameters, max(_BATCHED_TOKENS, settings.max_model_tokens)
    if settings.on_gpu:
        tokens = _BATCHED_TOKENS
    width = 4 * shape.hidden + 3 * shape.intermediate
    samples = settings.max_concurrent
    items = [
        item("weights", b * parameters / size, f"{b} B x {count(parameters)}{over}"),
        item(
            "activations",
            b * tokens * width / size,
            f"{b} B x {tokens} tokens x (4 x {shape.hidden} + 3 x {shape.intermediate}){over}",
        ),
        item(
            "logits",
            8 * samples * shape.vocab,
            f"(4 + 4) B x {samples} samples x {count(shape.vocab)}",
        ),
    ]
    if settings.has_graphs:
        gib = assumptions.graphs_gib
        items.append(item("CUDA graphs", gib * GIB, f"{gib:g} GiB assumed"))
    gib = assumptions.process_gib if settings.on_gpu else assumptions.host_process_gib
    items.append(item("process", gib * GIB, f"{gib:g} GiB assumed"))
    return items
