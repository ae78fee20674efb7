"""What a rollout worker needs of an inference engine.

Two implementations: `vllm_engine` for real runs and `transformers_engine` for
debugging. Both run inside one process and know nothing of Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rubric_rl.types import RolloutRequest, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """All that an engine is built from."""

    model_path: str
    stop_token_ids: tuple[int, ...]
    """A completion ends with the first of these; it is part of the completion."""
    trust_remote_code: bool
    dtype: str
    max_model_tokens: int
    tensor_parallel_size: int
    max_concurrent_samples: int
    gpu_memory_utilization: float
    kv_cache_gib: float
    enforce_eager: bool
    deterministic: bool
    weight_transport: str
    sleep_mode: bool
    seed: int
    device: str
    num_threads: int


class RolloutEngine(Protocol):
    """Generates samples and takes new weights between generations."""

    def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        """Yield each sample as soon as it is finished, in any order."""
        ...

    async def start_weight_update(self) -> None:
        """Wait for running generations and get ready for weights."""
        ...

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive one piece; its form depends on the transport."""
        ...

    async def finish_weight_update(self, policy_version: int) -> None:
        """Serve the new weights as `policy_version`, with an empty prefix cache."""
        ...

    async def policy_version(self) -> int:
        """The version that is served now."""
        ...

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the transport's group, where it has one."""
        ...

    async def sleep(self) -> None:
        """Free device memory until the next weight update."""
        ...

    def close(self) -> None: ...


def bucket_update_info(path: Path) -> dict[str, Any]:
    """`update_weights` argument of the object-store transport: a safetensors file."""
    return {"path": str(path)}
