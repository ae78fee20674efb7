"""Tensors of one micro-batch.

Padded: prompts on the left and completions on the right, a row for each sample.

    row 0:  . . p p p | c c c c
    row 1:  p p p p p | c c . .       (. is padding)

Packed: all samples in one row without padding, and a prompt that several of them share
once. A completion sees its own prompt and itself; positions go on from its prompt's.

    tokens     p p p | c c c c | d d | q q q q | e e e
    positions  0 1 2 | 3 4 5 6 | 3 4 | 0 1 2 3 | 4 5 6
    d sees     * * *             * *

Masks come from the samples; nothing is derived from a token's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rubric_rl.learner.packed_attention import PackedGroup, PackedLayout
from rubric_rl.types import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchTensors:
    """B samples, T the longest completion, in R rows of L tokens."""

    input_ids: Tensor
    """[R, L] int64."""
    attention_mask: Tensor
    """Padded: [R, L] int64, 1 at real tokens. Packed: [1, 1, 1, 1] of zero, as the layout tells."""
    packed_layout: PackedLayout | None
    """Packed: what sees what."""
    position_ids: Tensor
    """[R, L] int64, counted over the real tokens of a sample."""
    predictors: Tensor
    """[B, T] int64: where in the flattened [R x L] a completion token is predicted, that is at
    the token before it; 0 at padding."""
    completion_ids: Tensor
    """[B, T] int64."""
    loss_mask: Tensor
    """[B, T] float32."""
    rollout_log_probs: Tensor
    """[B, T] float32, zero at padding."""
    reference_log_probs: Tensor | None
    """[B, T] float32, zero at padding; None: they did not come with the samples."""
    advantages: Tensor
    """[B] float32."""
    num_real_tokens: int
    """Prompt and completion tokens of the samples; a shared prompt counts for each."""
    num_model_tokens: int
    """Tokens of the rows, padding aside; a shared prompt counts once."""


def build_micro_batch(samples: Sequence[TrainSample], device: torch.device) -> MicroBatchTensors:
    """Pad `samples` (at least one) as drawn above."""
    num_prompt = max(len(s.prompt_token_ids) for s in samples)
    num_completion = max(len(s.completion_token_ids) for s in samples)

    def left(rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([[0] * (num_prompt - len(row)) + list(row) for row in rows])

    attention_mask = torch.cat(
        [
            left([[1] * len(s.prompt_token_ids) for s in samples]),
            _right([[1] * len(s.completion_token_ids) for s in samples], torch.int64),
        ],
        dim=1,
    )
    completion_ids = _right([s.completion_token_ids for s in samples], torch.int64)
    first = [row * (num_prompt + num_completion) + num_prompt - 1 for row in range(len(samples))]
    return _with_completions(
        samples,
        device,
        input_ids=torch.cat([left([s.prompt_token_ids for s in samples]), completion_ids], 1),
        attention_mask=attention_mask,
        packed_layout=None,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        predictors=_right(
            [
                range(start, start + len(s.completion_token_ids))
                for start, s in zip(first, samples, strict=True)
            ],
            torch.int64,
        ),
        num_model_tokens=sum(s.num_tokens for s in samples),
    )


def build_packed_micro_batch(
    samples: Sequence[TrainSample], device: torch.device
) -> MicroBatchTensors:
    """Pack `samples` (at least one) as drawn above; those of one prompt share it if adjacent."""
    row = _PackedRow()
    for sample in samples:
        row.add(sample)
    return _with_completions(
        samples,
        device,
        input_ids=torch.tensor([row.tokens]),
        # Of four dimensions, so that transformers makes no mask of the whole row.
        attention_mask=torch.zeros(1, 1, 1, 1),
        packed_layout=row.layout(),
        position_ids=torch.tensor([row.positions]),
        predictors=_right(row.predictors, torch.int64),
        num_model_tokens=len(row.tokens),
    )


class _PackedRow:
    """L tokens so far: prompts, each with its completions after it."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.predictors: list[list[int]] = []
        self._prompt: tuple[int, ...] | None = None
        self._prompt_places: list[tuple[int, int]] = []
        self._lengths: list[list[int]] = []  # of each prompt's completions

    def add(self, sample: TrainSample) -> None:
        prompt, completion = sample.prompt_token_ids, sample.completion_token_ids
        if prompt != self._prompt:
            self._prompt = prompt
            self._prompt_places.append((len(self.tokens), len(self.tokens) + len(prompt)))
            self._lengths.append([])
            self._append(prompt, position=0)
        start, prompt_end = len(self.tokens), self._prompt_places[-1][1]
        self._append(completion, position=len(prompt))
        self._lengths[-1].append(len(completion))
        self.predictors.append([prompt_end - 1, *range(start, start + len(completion) - 1)])

    def _append(self, tokens: Sequence[int], *, position: int) -> None:
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))

    def layout(self) -> PackedLayout:
        return tuple(
            PackedGroup.of(start, end, lengths)
            for (start, end), lengths in zip(self._prompt_places, self._lengths, strict=True)
        )


def _with_completions(
    samples: Sequence[TrainSample],
    device: torch.device,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    packed_layout: PackedLayout | None,
    position_ids: Tensor,
    predictors: Tensor,
    num_model_tokens: int,
) -> MicroBatchTensors:
    return MicroBatchTensors(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        packed_layout=packed_layout and tuple(group.to(device) for group in packed_layout),
        position_ids=position_ids.to(device),
        predictors=predictors.to(device),
        completion_ids=_right([s.completion_token_ids for s in samples], torch.int64).to(device),
        loss_mask=_right([s.loss_mask for s in samples], torch.float32).to(device),
        rollout_log_probs=_right([s.rollout_log_probs for s in samples], torch.float32).to(device),
        reference_log_probs=_reference_log_probs(samples, device),
        advantages=torch.tensor([s.advantage for s in samples], dtype=torch.float32).to(device),
        num_real_tokens=sum(s.num_tokens for s in samples),
        num_model_tokens=num_model_tokens,
    )


def _reference_log_probs(samples: Sequence[TrainSample], device: torch.device) -> Tensor | None:
    rows = [s.reference_log_probs for s in samples if s.reference_log_probs is not None]
    assert len(rows) in (0, len(samples)), "of all samples or of none"
    return _right(rows, torch.float32).to(device) if rows else None


def _right(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """Rows padded on the right with zeros to the longest."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=dtype)


def without_weight(batch: MicroBatchTensors) -> MicroBatchTensors:
    """The same tensors with no token in the loss: a rank's share when it has run out."""
    return replace(
        batch,
        loss_mask=torch.zeros_like(batch.loss_mask),
        advantages=torch.zeros_like(batch.advantages),
        num_real_tokens=0,
        num_model_tokens=0,
    )
