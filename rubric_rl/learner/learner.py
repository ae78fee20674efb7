"""One learner rank: GRPO steps on DeepSpeed ZeRO 1, 2 or 3.

Every rank is given the whole step's batch and works out its own share
(`microbatches`), so the ranks exchange gradients and metrics only. Must be used
in a process of its own: DeepSpeed and the process group are global.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from rubric_rl.algorithms.policy_loss import Denominators, LossTerms, grpo_loss
from rubric_rl.errors import LearnerDivergedError
from rubric_rl.learner.accelerator import (
    OffloadStateTypeEnum,
    offload_optimizer_states,
    reload_optimizer_states,
)
from rubric_rl.learner.batch import MicroBatchTensors, build_micro_batch
from rubric_rl.learner.checkpointing import LearnerCheckpoints
from rubric_rl.learner.export import export_model
from rubric_rl.learner.log_probs import Entropy, completion_log_probs
from rubric_rl.learner.models import torch_device
from rubric_rl.learner.numerics import (
    TokenFigures,
    matrix_flop_per_s,
    token_figures,
    update_numerics,
)
from rubric_rl.learner.policy import build_policy
from rubric_rl.learner.process_group import init_process_group
from rubric_rl.learner.rank_share import RankShare
from rubric_rl.learner.reference import (
    FrozenCopy,
    GivenReference,
    LoraBase,
    NoReference,
    Reference,
)
from rubric_rl.learner.spec import LearnerSpec, RankInfo
from rubric_rl.observability.checksums import FileDigest
from rubric_rl.types import TrainBatch, UpdateResult


class Learner:
    """Policy, reference and optimizer of one rank."""

    def __init__(self, spec: LearnerSpec, rank: RankInfo) -> None:
        self.spec = spec
        self.rank = rank
        self.policy_version = 0
        self._offloaded = False
        self.device = torch_device(spec.device)
        torch.manual_seed(spec.seed)
        init_process_group(rank, self.device)
        self.policy = build_policy(spec, self.device)
        self.reference = self._build_reference()
        self._share = RankShare(
            config=spec.learner,
            rank=rank.rank,
            num_ranks=rank.num_ranks,
            device=self.device,
        )
        self._checkpoints = LearnerCheckpoints(self.policy.engine, spec, rank, self.weight_shapes())
        self._entropy: Entropy = "gradient" if spec.algorithm.entropy_coef > 0 else "value"

    def _build_reference(self) -> Reference:
        match self.spec.learner.resolved_reference:
            case "copy":
                is_sharded = self.spec.learner.zero_stage == 3 and self.rank.num_ranks > 1
                return FrozenCopy.load(self.spec, self.device, is_sharded=is_sharded)
            case "lora_base":
                return LoraBase(self.policy.engine, self.policy.head)
            case "actor":
                return GivenReference()
            case "none":
                return NoReference()

    # ------------------------------------------------------------------------
    # One optimizer step

    def update(self, batch: TrainBatch) -> UpdateResult:
        """Take one step on `batch`, the same on every rank.

        Raises:
            LearnerDivergedError: the loss is not finite; no step was taken.
        """
        denominators = Denominators(
            num_tokens=batch.num_loss_tokens,
            num_samples=batch.num_loss_samples,
            num_ranks=self.rank.num_ranks,
        )
        self._bring_back()
        sums, figures = torch.zeros(7, dtype=torch.float64), TokenFigures.of_nothing()
        # Samples without a token in the loss teach nothing: they don't go through the model.
        learned_from = [sample for sample in batch.samples if sample.num_loss_tokens]
        for _, micro_batch in self._share.of(learned_from or batch.samples):
            forward = self._forward(micro_batch, batch.temperature, denominators)
            self.policy.engine.backward(forward.terms.loss)
            sums += _step_sums(forward, micro_batch)
            figures += forward.figures
        sums, figures = self._sum_over_ranks(sums), figures.over_ranks(self.device)
        self._require_finite(sums[0].item() / self.rank.num_ranks, batch.step)
        learning_rate = self.policy.engine.get_lr()[0]
        self.policy.engine.step()
        self.policy_version += 1
        return self._result(sums, figures, learning_rate, batch)

    def _forward(
        self, micro_batch: MicroBatchTensors, temperature: float, denominators: Denominators
    ) -> _Forward:
        reference = self.reference.log_probs(micro_batch, temperature)
        policy = completion_log_probs(
            self.policy.engine,
            micro_batch,
            temperature=temperature,
            head=self.policy.head,
            entropy=self._entropy,
        )
        if reference is None:  # its KL weighs nothing and is not reported
            reference = policy.log_probs.detach()
        terms = grpo_loss(
            log_probs=policy.log_probs,
            rollout_log_probs=micro_batch.rollout_log_probs,
            reference_log_probs=reference,
            advantages=micro_batch.advantages,
            mask=micro_batch.loss_mask,
            denominators=denominators,
            config=self.spec.algorithm,
            entropy=policy.entropy if self._entropy == "gradient" else None,
        )
        figures = token_figures(
            log_probs=policy.log_probs,
            rollout_log_probs=micro_batch.rollout_log_probs,
            reference_log_probs=reference,
            mask=micro_batch.loss_mask,
            config=self.spec.algorithm,
        )
        return _Forward(terms, policy.entropy.detach(), figures)

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        sums = sums.to(self.device)
        dist.all_reduce(sums)
        return sums.cpu()

    def _require_finite(self, loss: float, step: int) -> None:
        # The sum is the same on every rank, so all of them stop here together.
        if not torch.isfinite(torch.tensor(loss)):
            raise LearnerDivergedError(
                f"the loss of step {step} is {loss}: no optimizer step was taken. The newest "
                "checkpoint is good; lower learner.learning_rate or algorithm.clip_high"
            )

    @cached_property
    def _matrix_rate(self) -> float:
        """FLOP/s of all ranks' devices; they must ask for it together the first time."""
        mine = matrix_flop_per_s(self.device, self.policy.model.dtype)
        return self._sum_over_ranks(torch.tensor([mine], dtype=torch.float64)).item()

    def _result(
        self, sums: Tensor, figures: TokenFigures, learning_rate: float, batch: TrainBatch
    ) -> UpdateResult:
        grad_norm = self.policy.engine.get_global_grad_norm()
        if grad_norm is None or not torch.isfinite(torch.as_tensor(grad_norm)):
            raise LearnerDivergedError(
                f"the gradient norm of step {batch.step} is {grad_norm}: the policy in memory is "
                "spoilt, the newest checkpoint is good; lower learner.learning_rate"
            )
        loss, kl, clipped, gap, entropy, tokens, model_tokens = sums.tolist()
        num_loss_tokens = batch.num_loss_tokens
        has_reference = not isinstance(self.reference, NoReference)
        return UpdateResult(
            policy_version=self.policy_version,
            loss=loss / self.rank.num_ranks,
            grad_norm=float(grad_norm),
            learning_rate=learning_rate,
            kl_ref=kl / num_loss_tokens if has_reference else None,
            entropy=entropy / num_loss_tokens,
            clip_frac=clipped / num_loss_tokens,
            logprob_gap=gap / num_loss_tokens,
            num_tokens=int(tokens),
            numerics=update_numerics(
                figures,
                num_loss_tokens=num_loss_tokens,
                has_reference=has_reference,
                grad_norm=float(grad_norm),
                max_grad_norm=self.spec.learner.max_grad_norm,
                num_flop=self.policy.flop.of_step(
                    num_tokens=int(model_tokens),
                    num_loss_tokens=num_loss_tokens,
                    num_reference_passes=self.reference.num_passes,
                ),
                matrix_flop_per_s=self._matrix_rate,
            ),
        )

    # ------------------------------------------------------------------------
    # Weights and checkpoints

    def named_weights(self, bucket_bytes: int) -> Iterator[list[tuple[str, Tensor]]]:
        """Full policy weights in buckets of about `bucket_bytes`, in a fixed order.

        A collective under ZeRO-3: all ranks must iterate, and each bucket's
        tensors are valid only until the next one is asked for.
        """
        return self.policy.weights.buckets(bucket_bytes)

    def weight_shapes(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, type and full shape of each weight, in the order of `named_weights`."""
        return self.policy.weights.shapes()

    def log_probs(self, batch: TrainBatch) -> list[list[float]]:
        """Log-probs of each sample's completion tokens under the policy, on every rank alike."""
        result: list[list[float]] = []
        with torch.no_grad():
            for sample in batch.samples:
                # Of all tokens, those outside the loss too.
                whole = dataclasses.replace(sample, loss_mask=(1,) * len(sample.loss_mask))
                token_log_probs = completion_log_probs(
                    self.policy.engine,
                    build_micro_batch([whole], self.device),
                    temperature=batch.temperature,
                    head=self.policy.head,
                    entropy="none",
                )
                result.append(token_log_probs.log_probs[0].tolist())
        return result

    def save(self, directory: Path, *, in_background: bool = False) -> None:
        """Write this rank's share into `directory`; all ranks together write all of it.

        See `LearnerCheckpoints.save`.
        """
        self._bring_back()
        self._checkpoints.save(directory, self.policy_version, in_background=in_background)

    def written(self) -> dict[str, FileDigest] | None:
        """See `LearnerCheckpoints.written`."""
        return self._checkpoints.written()

    def load(self, directory: Path) -> int:
        """Restore what `save` wrote and return the policy version; see `LearnerCheckpoints.load`.

        A checkpoint that is refused as damaged leaves the learner as it was.
        """
        self._bring_back()
        self.policy_version = self._checkpoints.load(directory)
        return self.policy_version

    def export(self, directory: Path, bucket_bytes: int) -> None:
        """Write the policy as a Hugging Face model directory, tokenizer included (rank 0
        writes); adapters are merged."""
        export_model(
            self.policy.model,
            self.policy.weights,
            directory,
            bucket_bytes=bucket_bytes,
            is_writer=self.rank.rank == 0,
            source=self.spec.model_path,
            model=self.spec.model,
        )
        dist.barrier()

    def offload(self) -> None:
        """Under ZeRO-3, move Adam's moments and gradients to the host, so that a colocated
        engine has room; the next `update` brings them back. The weights stay, for the next
        sync."""
        learner = self.spec.learner
        # Offloaded parameters take their gradients along.
        if learner.zero_stage == 3 and not (self._offloaded or learner.offload_parameters):
            self.policy.engine.offload_states(
                include=[
                    OffloadStateTypeEnum.lp_grads,
                    OffloadStateTypeEnum.contiguous_grad_buffer,
                ]
            )
            # DeepSpeed's method moves optimizer state for its own FusedAdam only.
            if not learner.offload_optimizer:
                offload_optimizer_states(self.policy.engine.basic_optimizer, torch.device("cpu"))
            self._offloaded = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _bring_back(self) -> None:
        if self._offloaded:
            self.policy.engine.reload_states()
            if not self.spec.learner.offload_optimizer:
                reload_optimizer_states(self.policy.engine.basic_optimizer, self.device)
            self._offloaded = False

    def close(self) -> None:
        self._checkpoints.wait()
        self.policy.engine.destroy()
        dist.destroy_process_group()


class _Forward(NamedTuple):
    """Of one micro-batch."""

    terms: LossTerms
    entropy: Tensor
    """[B, T]."""
    figures: TokenFigures


def _step_sums(forward: _Forward, micro_batch: MicroBatchTensors) -> Tensor:
    """[7]: loss, KL, clipped tokens, log-prob gap, entropy, tokens, tokens through the model."""
    terms = forward.terms
    return torch.stack(
        [
            terms.loss.detach().double().cpu(),
            terms.kl_sum.double().cpu(),
            terms.clipped_sum.double().cpu(),
            terms.gap_sum.double().cpu(),
            (forward.entropy * micro_batch.loss_mask).sum().double().cpu(),
            torch.tensor(micro_batch.num_real_tokens, dtype=torch.float64),
            torch.tensor(micro_batch.num_model_tokens, dtype=torch.float64),
        ]
    )
