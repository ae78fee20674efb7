"""Tensors of one micro-batch.

Prompts are padded on the left and completions on the right, so that completion
tokens of all rows share their columns and the language-model head runs for those
columns only:

    row 0:  . . p p p | c c c c
    row 1:  p p p p p | c c . .       (. is padding)

Masks come from the samples; nothing is derived from a token's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rubric_rl.types import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchTensors:
    """B samples; P is the longest prompt, T the longest completion."""

    input_ids: Tensor
    """[B, P + T] int64."""
    attention_mask: Tensor
    """[B, P + T] int64, 1 at real tokens."""
    position_ids: Tensor
    """[B, P + T] int64, counted over real tokens."""
    completion_ids: Tensor
    """[B, T] int64."""
    loss_mask: Tensor
    """[B, T] float32."""
    rollout_log_probs: Tensor
    """[B, T] float32, zero at padding."""
    advantages: Tensor
    """[B] float32."""
    num_real_tokens: int


def build_micro_batch(samples: Sequence[TrainSample], device: torch.device) -> MicroBatchTensors:
    """Pad `samples` (at least one) as drawn above."""
    num_prompt = max(len(s.prompt_token_ids) for s in samples)
    num_completion = max(len(s.completion_token_ids) for s in samples)

    def left(rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([[0] * (num_prompt - len(row)) + list(row) for row in rows])

    def right(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
        return torch.tensor(
            [list(row) + [0] * (num_completion - len(row)) for row in rows], dtype=dtype
        )

    completion_ids = right([s.completion_token_ids for s in samples], torch.int64)
    attention_mask = torch.cat(
        [
            left([[1] * len(s.prompt_token_ids) for s in samples]),
            right([[1] * len(s.completion_token_ids) for s in samples], torch.int64),
        ],
        dim=1,
    )
    return MicroBatchTensors(
        input_ids=torch.cat([left([s.prompt_token_ids for s in samples]), completion_ids], 1).to(
            device
        ),
        attention_mask=attention_mask.to(device),
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0).to(device),
        completion_ids=completion_ids.to(device),
        loss_mask=right([s.loss_mask for s in samples], torch.float32).to(device),
        rollout_log_probs=right([s.rollout_log_probs for s in samples], torch.float32).to(device),
        advantages=torch.tensor([s.advantage for s in samples], dtype=torch.float32).to(device),
        num_real_tokens=sum(s.num_tokens for s in samples),
    )


def without_weight(batch: MicroBatchTensors) -> MicroBatchTensors:
    """The same tensors with no token in the loss: a rank's share when it has run out."""
    return MicroBatchTensors(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        completion_ids=batch.completion_ids,
        loss_mask=torch.zeros_like(batch.loss_mask),
        rollout_log_probs=batch.rollout_log_probs,
        advantages=torch.zeros_like(batch.advantages),
        num_real_tokens=0,
    )
