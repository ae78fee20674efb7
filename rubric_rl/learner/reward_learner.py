"""One rank that trains a Bradley-Terry reward model on DeepSpeed ZeRO 1, 2 or 3.

As the learner of the policy, it is given the whole step on every rank and takes its share;
both answers of a pair go through the model together. Must be used in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from rubric_rl.algorithms.bradley_terry import bradley_terry_loss
from rubric_rl.data.tokenizing import load_tokenizer
from rubric_rl.errors import LearnerDivergedError
from rubric_rl.learner.checkpointing import LearnerCheckpoints
from rubric_rl.learner.export import export_model
from rubric_rl.learner.microbatches import plan_micro_batches
from rubric_rl.learner.models import torch_device
from rubric_rl.learner.pairs import PairBatch, RewardUpdate, TokenPair, ordered_rightly
from rubric_rl.learner.policy import build_engine
from rubric_rl.learner.process_group import init_process_group
from rubric_rl.learner.reward_model import load_reward_model, padding_id, sequence_rewards
from rubric_rl.learner.spec import LearnerSpec, RankInfo
from rubric_rl.learner.weights import PolicyWeights
from rubric_rl.observability.checksums import FileDigest


class RewardLearner:
    """Reward model and optimizer of one rank."""

    def __init__(self, spec: LearnerSpec, rank: RankInfo) -> None:
        self.spec = spec
        self.rank = rank
        self.policy_version = 0
        device = torch_device(spec.device)
        # The head is new where the model is a policy: the same on every rank.
        torch.manual_seed(spec.seed)
        init_process_group(rank, device)
        model = _load(spec, device)
        self._device = device
        self._pad = int(cast(int, model.config.pad_token_id))
        self.engine = build_engine(model, spec.learner, num_steps=spec.num_steps, device=device)
        self._weights = PolicyWeights(self.model, is_sharded=spec.learner.zero_stage == 3)
        self._checkpoints = LearnerCheckpoints(self.engine, spec, rank, self._weights.shapes())

    @property
    def model(self) -> PreTrainedModel:
        """The model inside the engine."""
        return cast(PreTrainedModel, self.engine.module)

    # ------------------------------------------------------------------------
    # One optimizer step

    def update(self, batch: PairBatch) -> RewardUpdate:
        """Take one step on `batch`, the same on every rank.

        Raises:
            LearnerDivergedError: the loss or the gradient is not finite.
        """
        sums = torch.zeros(3, dtype=torch.float64)
        num_pairs = len(batch.pairs)
        for indices in self._share(batch.pairs):
            # A rank that has run out takes part in the collectives, without weight.
            pairs = [batch.pairs[i] for i in indices] or list(batch.pairs[:1])
            margins = self._margins(pairs)
            losses = bradley_terry_loss(margins, torch.zeros_like(margins))
            weight = float(bool(indices))
            # DeepSpeed averages gradients over ranks.
            self.engine.backward(losses.sum() * weight * self.rank.num_ranks / num_pairs)
            sums += weight * _sums(losses.detach(), margins.detach())
        loss, right, margin = (self._over_ranks(sums) / num_pairs).tolist()
        self._require_finite("loss", loss, batch.step)
        learning_rate = self.engine.get_lr()[0]
        self.engine.step()
        self.policy_version += 1
        grad_norm = self.engine.get_global_grad_norm()
        self._require_finite("gradient norm", grad_norm, batch.step)
        return RewardUpdate(
            policy_version=self.policy_version,
            loss=loss,
            accuracy=right,
            margin=margin,
            grad_norm=float(cast(float, grad_norm)),
            learning_rate=learning_rate,
            num_tokens=sum(pair.num_tokens for pair in batch.pairs),
        )

    def margins(self, pairs: Sequence[TokenPair]) -> list[float]:
        """Reward of the preferred answer above the other's, for each pair, on every rank."""
        mine: dict[int, float] = {}
        with torch.no_grad():
            for indices in self._share(pairs):
                found = self._margins([pairs[i] for i in indices] or list(pairs[:1]))
                mine |= dict(zip(indices, found.tolist(), strict=False))
        shares: list[dict[int, float]] = [{} for _ in range(self.rank.num_ranks)]
        dist.all_gather_object(shares, mine)
        merged = {index: margin for share in shares for index, margin in share.items()}
        return [merged[index] for index in range(len(pairs))]

    def _margins(self, pairs: Sequence[TokenPair]) -> Tensor:
        """[B] with gradient."""
        sequences = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        chosen, rejected = sequence_rewards(self.engine, sequences, self._pad).chunk(2)
        return chosen - rejected

    def _share(self, pairs: Sequence[TokenPair]) -> Iterator[tuple[int, ...]]:
        """Indices of each micro-batch of this rank; every rank has as many."""
        plan = plan_micro_batches(
            # Both of a pair are padded to the longest of the micro-batch.
            [(0, 2 * max(len(pair.chosen), len(pair.rejected))) for pair in pairs],
            num_ranks=self.rank.num_ranks,
            token_budget=self.spec.learner.micro_batch_tokens,
            shared_prompts=None,
        )
        yield from plan[self.rank.rank]

    def _over_ranks(self, sums: Tensor) -> Tensor:
        sums = sums.to(self._device)
        dist.all_reduce(sums)
        return sums.cpu()

    def _require_finite(self, what: str, value: object, step: int) -> None:
        if value is None or not torch.isfinite(torch.as_tensor(value)):
            raise LearnerDivergedError(
                f"the {what} of step {step} is {value}: the newest checkpoint is good; lower "
                "learner.learning_rate"
            )

    # ------------------------------------------------------------------------
    # Checkpoints and export, as the policy's learner has them

    def save(self, directory: Path, *, in_background: bool = False) -> None:
        """See `LearnerCheckpoints.save`."""
        self._checkpoints.save(directory, self.policy_version, in_background=in_background)

    def written(self) -> dict[str, FileDigest] | None:
        """See `LearnerCheckpoints.written`."""
        return self._checkpoints.written()

    def load(self, directory: Path) -> int:
        """See `LearnerCheckpoints.load`."""
        self.policy_version = self._checkpoints.load(directory)
        return self.policy_version

    def export(self, directory: Path, bucket_bytes: int) -> None:
        """Write a Hugging Face directory whose tokenizer pads as the model expects it."""
        export_model(
            self.model,
            self._weights,
            directory,
            bucket_bytes=bucket_bytes,
            is_writer=self.rank.rank == 0,
            source=self.spec.model_path,
            model=self.spec.model,
        )
        if self.rank.rank == 0:
            tokenizer = AutoTokenizer.from_pretrained(directory)
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self._pad)
            tokenizer.save_pretrained(str(directory))
        dist.barrier()

    def close(self) -> None:
        self._checkpoints.wait()
        self.engine.destroy()
        dist.destroy_process_group()


def _load(spec: LearnerSpec, device: torch.device) -> PreTrainedModel:
    trusts = spec.model.trust_remote_code
    model = load_reward_model(
        spec.model_path,
        dtype=spec.learner.dtype,
        device=device,
        trust_remote_code=trusts,
        attn_implementation=spec.learner.attn_implementation,
    )
    end_of_turn = load_tokenizer(spec.model_path, spec.model).tokenize_answer("")[-1]
    model.config.pad_token_id = padding_id(spec.model_path, end_of_turn, trust_remote_code=trusts)
    if spec.learner.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    return model


def _sums(losses: Tensor, margins: Tensor) -> Tensor:
    """[3]: loss, pairs ordered rightly, margin."""
    right = sum(ordered_rightly(margin) for margin in margins.tolist())
    return torch.tensor([losses.sum().item(), right, margins.sum().item()], dtype=torch.float64)
