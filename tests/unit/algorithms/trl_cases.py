"""Random inputs of a loss, and the cases that TRL's is compared in. Imports torch alone.

`tests/bench/trl_losses.py` runs TRL's own `GRPOTrainer._compute_loss` on them, in TRL's
environment, and writes what it returned to `trl_losses.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LENGTH = 7
SEEDS = range(4)
SEQUENCE = {"loss_aggregation": "sequence"}
ON_POLICY = {"old_log_probs": "learner"}


@dataclass(frozen=True)
class Inputs:
    """[B, T] each, but for advantages [B]."""

    log_probs: Tensor
    rollout: Tensor
    reference: Tensor
    advantages: Tensor
    mask: Tensor


def random_inputs(seed: int) -> Inputs:
    """Six samples of 1 to 7 tokens; log ratios of a standard deviation of 0.4."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    log_probs = -normal(6, LENGTH).abs()
    lengths = torch.randint(1, LENGTH + 1, (6, 1), generator=generator)
    return Inputs(
        log_probs=log_probs,
        rollout=log_probs + 0.4 * normal(6, LENGTH),
        reference=log_probs + 0.4 * normal(6, LENGTH),
        advantages=normal(6),
        mask=(torch.arange(LENGTH) < lengths).double(),
    )


@dataclass(frozen=True)
class Trl:
    """What of TRL's `GRPOConfig` its loss depends on."""

    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    epsilon: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    beta: float = 0.0
    vllm_mode: str | None = None
    vllm_clip_max: float = 3.0


CONSTANT = {"loss_aggregation": "constant", "constant_length_tokens": LENGTH}
NO_LOWER = {"importance_min": 0.0, "importance_max": 1.2}
_CASES: list[tuple[dict[str, Any], Trl]] = [
    ({}, Trl()),
    ({"clip_high": 0.28}, Trl(epsilon_high=0.28)),
    (SEQUENCE, Trl(loss_type="grpo")),
    (CONSTANT, Trl(loss_type="dr_grpo")),
    ({"kl_coef": 0.1, **SEQUENCE}, Trl(loss_type="grpo", beta=0.1)),
    ({"kl_coef": 0.1, **CONSTANT}, Trl(loss_type="dr_grpo", beta=0.1)),
    # TRL bounds the ratio of good tokens too, where PPO's clip is the tighter one.
    ({"dual_clip": 1.5}, Trl(delta=1.5)),
    (
        {"policy_loss": "gspo", **SEQUENCE},
        Trl(loss_type="grpo", importance_sampling_level="sequence"),
    ),
    # TRL's `epsilon_high` is the bound itself here.
    (
        {"policy_loss": "cispo", "clip_low": 1.0, "clip_high": 0.3},
        Trl(loss_type="cispo", epsilon_high=1.3),
    ),
    (
        {"importance_correction": "token_clip", **NO_LOWER, **ON_POLICY},
        Trl(vllm_mode="token_truncate", vllm_clip_max=1.2),
    ),
    (
        {"importance_correction": "token_mask", **NO_LOWER, **ON_POLICY},
        Trl(vllm_mode="token_mask", vllm_clip_max=1.2),
    ),
]

TRL_CASES = {
    " ".join(f"{key}={value}" for key, value in settings.items()) or "default": (settings, trl)
    for settings, trl in _CASES
}
"""By our settings in words: those, and TRL's."""
