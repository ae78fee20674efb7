"""Log-probs of the reference: the policy as it was loaded, which the KL compares with.

copy       a frozen copy in each rank, sharded under ZeRO-3
lora_base  the policy itself with its adapters off; costs no memory
actor      worked out elsewhere (`ReferenceModel`), they come with the samples
none       there is none, and no KL
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from rubric_rl.learner.accelerator import deepspeed
from rubric_rl.learner.batch import MicroBatchTensors
from rubric_rl.learner.deepspeed_config import reference_deepspeed_config
from rubric_rl.learner.log_probs import (
    ChunkedHead,
    check_packing,
    completion_log_probs,
    find_chunked_head,
)
from rubric_rl.learner.lora import adapters_off
from rubric_rl.learner.models import load_causal_lm, torch_device
from rubric_rl.learner.rank_share import RankShare
from rubric_rl.learner.spec import LearnerSpec
from rubric_rl.types import TrainBatch


class Reference(Protocol):
    """Gives [B, T] log-probs, meaningless outside the loss; None: there is no reference."""

    num_passes: int
    """Forward passes of the whole model that this takes on a rank."""

    def log_probs(self, micro_batch: MicroBatchTensors, temperature: float) -> Tensor | None: ...


class FrozenCopy:
    """A model that stays as it was loaded."""

    num_passes = 1

    def __init__(self, model: nn.Module, head: ChunkedHead | None) -> None:
        self.model = model
        self.head = head

    @staticmethod
    def load(spec: LearnerSpec, device: torch.device, *, is_sharded: bool) -> FrozenCopy:
        """Load it; a collective if it `is_sharded` among the learner ranks."""
        config = spec.learner
        model = load_causal_lm(spec.model_path, spec.model, config, device)
        model.requires_grad_(False)
        head = find_chunked_head(model, config.logits_chunk_tokens)
        if not is_sharded:
            return FrozenCopy(model, head)
        engine, *_ = deepspeed.initialize(model=model, config=reference_deepspeed_config(config))
        return FrozenCopy(engine, head)

    @torch.no_grad()
    def log_probs(self, micro_batch: MicroBatchTensors, temperature: float) -> Tensor:
        return completion_log_probs(
            self.model, micro_batch, temperature=temperature, head=self.head, entropy="none"
        ).log_probs


class LoraBase(FrozenCopy):
    """The policy without its adapters. Holds no weights of its own."""

    def log_probs(self, micro_batch: MicroBatchTensors, temperature: float) -> Tensor:
        with adapters_off(self.model):
            return super().log_probs(micro_batch, temperature)


class GivenReference:
    """What came with the samples."""

    num_passes = 0

    def log_probs(self, micro_batch: MicroBatchTensors, temperature: float) -> Tensor:
        del temperature  # the workers had it
        assert micro_batch.reference_log_probs is not None, "reference workers come first"
        return micro_batch.reference_log_probs


class NoReference:
    """Nothing to compare with."""

    num_passes = 0

    def log_probs(self, micro_batch: MicroBatchTensors, temperature: float) -> None:
        del micro_batch, temperature


class ReferenceModel:
    """A whole copy of the policy as it was loaded, in a process without a learner rank."""

    def __init__(self, spec: LearnerSpec, *, index: int, num_workers: int) -> None:
        device = torch_device(spec.device)
        model = load_causal_lm(spec.model_path, spec.model, spec.learner, device)
        model.requires_grad_(False)
        head = find_chunked_head(model, spec.learner.logits_chunk_tokens)
        if spec.learner.packing:
            check_packing(model, head)
        self._copy = FrozenCopy(model, head)
        self._share = RankShare(
            config=spec.learner,
            rank=index,
            num_ranks=num_workers,
            device=device,
        )

    def log_probs(self, batch: TrainBatch) -> dict[int, tuple[float, ...]]:
        """Log-probs of the completions in this worker's share, by index in the batch.

        Zero at tokens outside the loss. Samples without a token in it are left out.
        """
        learned_from = [i for i, s in enumerate(batch.samples) if s.num_loss_tokens]
        found: dict[int, tuple[float, ...]] = {}
        for indices, tensors in self._share.of([batch.samples[i] for i in learned_from]):
            if not indices:
                continue
            rows = self._copy.log_probs(tensors, batch.temperature).tolist()
            for index, row in zip(indices, rows, strict=True):
                sample = batch.samples[learned_from[index]]
                found[learned_from[index]] = tuple(row[: len(sample.completion_token_ids)])
        return found
