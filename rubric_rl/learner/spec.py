"""What a learner rank is built from; no heavy imports, so the driver can make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rubric_rl.config.schema import AlgorithmConfig, LearnerConfig, ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """Where a rank stands in the group."""

    rank: int
    num_ranks: int
    master_address: str
    master_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """All that a learner rank is built from."""

    model_path: str
    model: ModelConfig
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    device: Literal["cpu", "gpu"]
    """Of `cluster.device`, never what the machine happens to have."""
    num_steps: int
    """Planned optimizer steps; the warm-up is a share of it."""
    seed: int
