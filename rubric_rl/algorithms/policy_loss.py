"""The objective of one micro-batch.

    loss = aggregate( policy term ) + kl_coef * aggregate( KL(policy || reference) )
                                    - entropy_coef * aggregate( entropy )

With ratio = policy / old for each token, A its advantage and sg() without gradient, the
policy term of a token is

    ppo    -min( ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A )
           PPO, arXiv 1707.06347, eq. 7; GRPO, arXiv 2402.03300, eq. 3; two widths as in DAPO,
           arXiv 2503.14476, eq. 10. With `dual_clip` c, and A < 0: at most -c * A
           (arXiv 1912.09729). With an importance correction: times sg(w), where
           w = learner / engine of the token, clipped (TIS) or left out where it is out of
           bounds (MIS), or the geometric mean of the sample's
    gspo   the same with the geometric mean of the sample's ratios; GSPO, arXiv 2507.18071, eq. 5
    cispo  -sg( clip(ratio, 1 - clip_low, 1 + clip_high) ) * A * log policy
           CISPO, arXiv 2506.13585, eq. 4: no token loses its gradient
    rft    -A * log policy, where A is 1 for the best of each group; RAFT, arXiv 2304.06767

PPO, GSPO and their corrections are OpenRLHF's `PolicyLoss`, aggregation its
`aggregate_loss`, the KL its `compute_approx_kl`; CISPO, RFT and the clipped weight of a sample are
ours. With
`kl_in=reward` the KL (k1) is not in the loss: each token's advantage is A - kl_coef * KL of that
token, detached. Its gradient is on average that of the KL of each token's distribution.
Our departures:

1. The mean runs over all tokens of the step, over samples (`sequence`), or over a fixed length
   for each sample (`constant`), with the denominator of the whole step handed in. Hence
   micro-batches of any size and any number of ranks give the same gradient. GRPO averages
   within each sample first (`sequence`), Dr. GRPO divides by a fixed length (`constant`).
2. The ratio is against the log-probs of the engine that sampled
   (`old_log_probs=rollout`), so a numerical gap between engine and learner is
   corrected by importance sampling instead of ignored. `learner` gives the
   usual on-policy form, whose ratio is exactly 1 with one update per batch; an importance
   correction then weighs that gap by itself.
3. In REINFORCE++ a token pays for its own KL and that of the tokens after it, before the
   standardization, and in RLOO the sample's whole KL is a part of its reward, hence of the
   others' baseline; here a token pays for its own, after both.
4. CISPO's paper has no lower bound in practice: that is clip_low = 1.
5. TIS truncates weights from above alone: that is importance_min = 0. The default raises small
   ones, as OpenRLHF does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rubric_rl.algorithms.openrlhf_losses import PolicyLoss, aggregate_loss, compute_approx_kl
from rubric_rl.config.algorithm import AlgorithmConfig, ImportanceCorrection, PolicyLossName

# OpenRLHF's bound on a log ratio, which keeps exp() finite.
_MAX_LOG_RATIO = 20.0

# Its level and mode of an importance correction.
_CORRECTIONS: dict[ImportanceCorrection, tuple[str, str]] = {
    "off": ("off", "mask"),
    "token_clip": ("token", "clip"),
    "token_mask": ("token", "mask"),
    "sequence_clip": ("off", "mask"),  # OpenRLHF has none: see `_sample_weight`
    "sequence_mask": ("seq", "mask"),
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """[B, T] each; finite at padding, where the mask is 0."""

    log_probs: Tensor
    """With gradient; the others have none."""
    old: Tensor
    rollout: Tensor
    reference: Tensor
    advantages: Tensor
    mask: Tensor


def grpo_loss(
    *,
    log_probs: Tensor,
    rollout_log_probs: Tensor,
    reference_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    denominators: Denominators,
    config: AlgorithmConfig,
    entropy: Tensor | None = None,
) -> LossTerms:
    """The objective above.

    Args:
        log_probs: [B, T] of the policy that is trained, with gradient.
        rollout_log_probs: [B, T] of the engine that sampled.
        reference_log_probs: [B, T] of the frozen reference.
        advantages: [B], one for each sample.
        mask: [B, T], 1.0 at tokens that are trained on.
        denominators: totals of the whole step.
        config: form and weights of the terms, aggregation.
        entropy: [B, T] of the policy, with gradient; needed where `entropy_coef` is not zero.
    """
    detached = log_probs.detach()
    # Padding holds zeros on one side only; equal values there keep exp() finite.
    rollout = torch.where(mask > 0, rollout_log_probs, detached)
    reference = torch.where(mask > 0, reference_log_probs, detached)
    tokens = _Tokens(
        log_probs=log_probs,
        old=rollout if config.old_log_probs == "rollout" else detached,
        rollout=rollout,
        reference=reference,
        advantages=_token_advantages(advantages, detached, reference, config),
        mask=mask,
    )
    loss = _POLICY_TERMS[config.policy_loss](tokens, denominators, config)
    if config.kl_coef > 0 and config.kl_in == "loss":
        kl = compute_approx_kl(log_probs, reference, kl_estimator=config.kl_estimator)
        loss = loss + config.kl_coef * _aggregate(kl, mask, denominators, config)
    if config.entropy_coef > 0:
        assert entropy is not None, "entropy_coef needs an entropy with gradient"
        loss = loss - config.entropy_coef * _aggregate(entropy, mask, denominators, config)
    return LossTerms(
        loss=loss,
        kl_sum=(compute_approx_kl(detached, reference, kl_estimator="k3") * mask).sum(),
        clipped_sum=_clipped(tokens, config).mul(mask).sum(),
        gap_sum=((rollout - detached).abs() * mask).sum(),
    )


def _token_advantages(
    advantages: Tensor, log_probs: Tensor, reference: Tensor, config: AlgorithmConfig
) -> Tensor:
    """[B, T]: each sample's advantage, less the tokens' KL if that is in the reward."""
    advantages_BT = advantages.unsqueeze(-1).expand_as(log_probs)
    if config.kl_coef == 0 or config.kl_in == "loss":
        return advantages_BT
    kl = compute_approx_kl(log_probs, reference, kl_estimator=config.kl_estimator)
    return advantages_BT - config.kl_coef * kl


# ----------------------------------------------------------------------------
# Policy terms, aggregated


def _clipped_surrogate(
    tokens: _Tokens, denominators: Denominators, config: AlgorithmConfig
) -> Tensor:
    """PPO or GSPO."""
    level, mode = _CORRECTIONS[config.importance_correction]
    policy_loss = PolicyLoss(
        clip_eps_low=config.clip_low,
        clip_eps_high=config.clip_high,
        dual_clip=config.dual_clip,  # pyright: ignore[reportArgumentType] # its None is unannotated
        token_level_loss=config.loss_aggregation != "sequence",
        policy_loss_type=config.policy_loss,
        is_correction_level=level,
        is_correction_mode=mode,
        is_correction_threshold=[config.importance_min, config.importance_max],
    )
    loss, *_ = policy_loss(
        tokens.log_probs,
        tokens.old,
        tokens.advantages * _sample_weight(tokens, config),
        action_mask=tokens.mask,
        rollout_log_probs=tokens.rollout,
        dp_size=denominators.num_ranks,
        batch_num_tokens=_num_tokens(denominators, config),
        global_batch_size=denominators.num_samples,
    )
    return loss


def _sample_weight(tokens: _Tokens, config: AlgorithmConfig) -> Tensor | float:
    """[B, 1]: the clipped weight of each sample; times A it is times the surrogate, which is
    linear in A of one sign."""
    if config.importance_correction != "sequence_clip":
        return 1.0
    log_weight = (tokens.old - tokens.rollout).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return _geometric_mean(log_weight, tokens.mask).clamp(
        config.importance_min, config.importance_max
    )


def _cispo(tokens: _Tokens, denominators: Denominators, config: AlgorithmConfig) -> Tensor:
    weight = _clip(_ratio(tokens), config)
    return _aggregate(
        -weight * tokens.advantages * tokens.log_probs, tokens.mask, denominators, config
    )


def _rft(tokens: _Tokens, denominators: Denominators, config: AlgorithmConfig) -> Tensor:
    return _aggregate(-tokens.advantages * tokens.log_probs, tokens.mask, denominators, config)


_POLICY_TERMS: dict[PolicyLossName, Callable[[_Tokens, Denominators, AlgorithmConfig], Tensor]] = {
    "ppo": _clipped_surrogate,
    "gspo": _clipped_surrogate,
    "cispo": _cispo,
    "rft": _rft,
}


# ----------------------------------------------------------------------------
# Aggregation


def _aggregate(
    values: Tensor, mask: Tensor, denominators: Denominators, config: AlgorithmConfig
) -> Tensor:
    """The step's mean of [B, T] values, this micro-batch's share of it."""
    return aggregate_loss(
        values,
        mask,
        token_level_loss=config.loss_aggregation != "sequence",
        dp_size=denominators.num_ranks,
        batch_num_tokens=_num_tokens(denominators, config),
        global_batch_size=denominators.num_samples,
    )


def _num_tokens(denominators: Denominators, config: AlgorithmConfig) -> int:
    """What a sum over tokens is divided by."""
    if config.loss_aggregation != "constant":
        return denominators.num_tokens
    assert config.constant_length_tokens is not None
    return denominators.num_samples * config.constant_length_tokens


# ----------------------------------------------------------------------------
# Clipping


def _clipped(tokens: _Tokens, config: AlgorithmConfig) -> Tensor:
    """[B, T], 1.0 where the clip replaces the ratio; except for CISPO such tokens have no
    gradient."""
    if config.policy_loss == "rft":
        return torch.zeros_like(tokens.mask)
    ratio = _ratio(tokens)
    if config.policy_loss == "cispo":
        return (_clip(ratio, config) != ratio).float()
    if config.policy_loss == "gspo":
        ratio = _sample_ratio(tokens)
    surrogate = ratio * tokens.advantages
    replaced = _clip(ratio, config) * tokens.advantages < surrogate
    if config.dual_clip is not None:
        replaced |= (tokens.advantages < 0) & (ratio > config.dual_clip)
    return replaced.float()


def _clip(ratio: Tensor, config: AlgorithmConfig) -> Tensor:
    return ratio.clamp(1 - config.clip_low, 1 + config.clip_high)


def _ratio(tokens: _Tokens) -> Tensor:
    """[B, T], without gradient."""
    log_ratio = tokens.log_probs.detach() - tokens.old
    return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _sample_ratio(tokens: _Tokens) -> Tensor:
    """[B, 1]: geometric mean over the sample's tokens, without gradient."""
    return _geometric_mean(tokens.log_probs.detach() - tokens.old, tokens.mask)


def _geometric_mean(logs: Tensor, mask: Tensor) -> Tensor:
    """[B, 1]: over the tokens of the mask; 1 where there are none."""
    return ((logs * mask).sum(-1) / mask.sum(-1).clamp(min=1)).exp().unsqueeze(-1)
