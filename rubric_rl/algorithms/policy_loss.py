"""The GRPO objective of one micro-batch.

    loss = aggregate( PPO-clip(ratio, advantage) ) + kl_coef * aggregate( KL(policy || reference) )

GRPO is from DeepSeekMath (arXiv 2402.03300, eq. 3); clipping and aggregation are
OpenRLHF's `PolicyLoss` and `aggregate_loss`, the KL its `compute_approx_kl`.
Our departures:

1. The mean runs over all tokens of the step (or, with `sequence`, over samples),
   with the denominator of the whole step handed in. Hence micro-batches of any
   size and any number of ranks give the same gradient. The paper averages within
   each sample first.
2. The ratio is against the log-probs of the engine that sampled
   (`old_log_probs=rollout`), so a numerical gap between engine and learner is
   corrected by importance sampling instead of ignored. `learner` gives the
   usual on-policy form, whose ratio is exactly 1 with one update per batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rubric_rl.algorithms.openrlhf_losses import PolicyLoss, aggregate_loss, compute_approx_kl
from rubric_rl.config.schema import AlgorithmConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Denominators:
    """Totals of the whole step, over all micro-batches and ranks."""

    num_tokens: int
    num_samples: int
    num_ranks: int
    """Multiplies the loss: DeepSpeed averages gradients over ranks, the totals are global."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """Loss of one micro-batch, and sums over its tokens for the step's metrics."""

    loss: Tensor
    """Scalar with gradient."""
    kl_sum: Tensor
    """Sum over tokens of the k3 estimate, whatever estimator the loss uses."""
    clipped_sum: Tensor
    """Number of tokens whose ratio the clip replaced."""
    gap_sum: Tensor
    """Sum over tokens of |rollout log-prob - learner log-prob|."""


def grpo_loss(
    *,
    log_probs: Tensor,
    rollout_log_probs: Tensor,
    reference_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    denominators: Denominators,
    config: AlgorithmConfig,
) -> LossTerms:
    """The objective above.

    Args:
        log_probs: [B, T] of the policy that is trained, with gradient.
        rollout_log_probs: [B, T] of the engine that sampled.
        reference_log_probs: [B, T] of the frozen reference.
        advantages: [B], one for each sample.
        mask: [B, T], 1.0 at tokens that are trained on.
        denominators: totals of the whole step.
        config: clip range, KL form and weight, aggregation.
    """
    detached = log_probs.detach()
    # Padding holds zeros on one side only; equal values there keep exp() finite.
    rollout = torch.where(mask > 0, rollout_log_probs, detached)
    reference = torch.where(mask > 0, reference_log_probs, detached)
    old = rollout if config.old_log_probs == "rollout" else detached
    advantages_BT = advantages.unsqueeze(-1).expand_as(log_probs)
    token_level = config.loss_aggregation == "token"

    policy_loss = PolicyLoss(
        clip_eps_low=config.clip_low, clip_eps_high=config.clip_high, token_level_loss=token_level
    )
    loss, *_ = policy_loss(
        log_probs,
        old,
        advantages_BT,
        action_mask=mask,
        dp_size=denominators.num_ranks,
        batch_num_tokens=denominators.num_tokens,
        global_batch_size=denominators.num_samples,
    )
    if config.kl_coef > 0:
        kl = compute_approx_kl(log_probs, reference, kl_estimator=config.kl_estimator)
        loss = loss + config.kl_coef * aggregate_loss(
            kl,
            mask,
            token_level_loss=token_level,
            dp_size=denominators.num_ranks,
            batch_num_tokens=denominators.num_tokens,
            global_batch_size=denominators.num_samples,
        )
    return LossTerms(
        loss=loss,
        kl_sum=(compute_approx_kl(detached, reference, kl_estimator="k3") * mask).sum(),
        clipped_sum=_clipped(detached, old, advantages_BT, config).mul(mask).sum(),
        gap_sum=((rollout - detached).abs() * mask).sum(),
    )


def _clipped(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, config: AlgorithmConfig
) -> Tensor:
    """[B, T], 1.0 where clipping replaces the surrogate (so the token has no gradient)."""
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return (clipped * advantages < ratio * advantages).float()
