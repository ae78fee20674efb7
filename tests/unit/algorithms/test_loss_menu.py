"""What the loss can do beside PPO's clip, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rubric_rl.algorithms.policy_loss import Denominators, LossTerms, grpo_loss
from rubric_rl.config.algorithm import AlgorithmConfig

# OpenRLHF computes the KL in float32 whatever it is given.
KL_TOLERANCE = 1e-6
# Its per-sequence mean divides by the count + 1e-8.
SEQUENCE_TOLERANCE = 1e-7


def tensor(rows: Sequence[Any]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def loss_and_gradient(
    log_probs: Tensor,
    *,
    advantages: Sequence[float],
    rollout: Tensor | None = None,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
    entropy: Tensor | None = None,
    **settings: Any,
) -> tuple[LossTerms, Tensor]:
    """Whatever is left out equals `log_probs`; without a KL unless settings say so."""
    leaf = log_probs.clone().requires_grad_()
    mask = torch.ones_like(log_probs) if mask is None else mask
    # Not validated: combinations are refused by the whole configuration.
    config = AlgorithmConfig().model_copy(update={"kl_coef": 0.0, **settings})
    terms = grpo_loss(
        log_probs=leaf,
        rollout_log_probs=log_probs if rollout is None else rollout,
        reference_log_probs=log_probs if reference is None else reference,
        advantages=tensor(advantages),
        mask=mask,
        denominators=Denominators(num_tokens=int(mask.sum()), num_samples=len(mask), num_ranks=1),
        config=config,
        entropy=entropy,
    )
    terms.loss.backward()
    assert leaf.grad is not None
    return terms, leaf.grad


def close(actual: Tensor, expected: Sequence[Any], tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=0, atol=tolerance)


# Two samples with the ratios 4, 1/2 and 1, 1 of policy to rollout.
LOG_PROBS = tensor([[-1.0, -2.0], [-1.0, -3.0]])
RATIOS = tensor([[4.0, 0.5], [1.0, 1.0]])
ROLLOUT = LOG_PROBS - RATIOS.log()

# ----------------------------------------------------------------------------
# Dual clip


def test_the_dual_clip_bounds_the_loss_of_bad_tokens_with_a_high_ratio() -> None:
    # A = -1, clip to [0.8, 1.2], c = 3. Ratio 4: min(-4, -1.2) = -4, at least -3: loss 3, no
    # gradient. Ratio 0.5: min(-0.5, -0.8) = -0.8: loss 0.8, no gradient. Ratio 1: loss 1,
    # gradient 1.
    terms, gradient = loss_and_gradient(
        LOG_PROBS, advantages=[-1.0, -1.0], rollout=ROLLOUT, dual_clip=3.0
    )
    assert terms.loss.item() == pytest.approx((3 + 0.8 + 1 + 1) / 4)
    close(gradient, [[0, 0], [0.25, 0.25]])
    assert terms.clipped_sum.item() == 2


def test_the_dual_clip_leaves_good_tokens_alone() -> None:
    # A = 1: ratio 4 is clipped to 1.2 by PPO; 0.5 stays.
    with_dual, gradient = loss_and_gradient(
        LOG_PROBS, advantages=[1.0, 1.0], rollout=ROLLOUT, dual_clip=3.0
    )
    plain, same = loss_and_gradient(LOG_PROBS, advantages=[1.0, 1.0], rollout=ROLLOUT)
    assert with_dual.loss.item() == plain.loss.item() == pytest.approx(-(1.2 + 0.5 + 2) / 4)
    assert torch.equal(gradient, same)
    assert with_dual.clipped_sum.item() == 1


# ----------------------------------------------------------------------------
# GSPO


def test_gspo_clips_the_geometric_mean_of_a_samples_ratios() -> None:
    # Sample 0: sqrt(4 * 0.5) = 1.414214, clipped to 1.2 for A = 1; sample 1: 1 for A = -1.
    # loss = -(1.2 - 1) / 2. Gradient of sample 1: -A * ratio / (2 tokens * 2 samples).
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, -1.0],
        rollout=ROLLOUT,
        policy_loss="gspo",
        loss_aggregation="sequence",
    )
    assert terms.loss.item() == pytest.approx(-0.1, abs=SEQUENCE_TOLERANCE)
    close(gradient, [[0, 0], [0.25, 0.25]], SEQUENCE_TOLERANCE)
    assert terms.clipped_sum.item() == 2  # both tokens of sample 0


def test_gspo_shares_a_samples_gradient_among_its_tokens_alike() -> None:
    # Unclipped (to 1.5): d(ratio)/d(log-prob) = ratio / 2 for each token, summed over the two
    # terms of the mean: -1.414214 / 4 for each token.
    _, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, 0.0],
        rollout=ROLLOUT,
        policy_loss="gspo",
        loss_aggregation="sequence",
        clip_high=0.5,
    )
    close(gradient, [[-0.353553, -0.353553], [0, 0]], 1e-6)


def test_gspo_has_no_loss_for_a_sample_without_tokens() -> None:
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, -1.0],
        rollout=ROLLOUT,
        mask=tensor([[0, 0], [1, 1]]),
        policy_loss="gspo",
        loss_aggregation="sequence",
    )
    assert terms.loss.item() == pytest.approx(0.5, abs=SEQUENCE_TOLERANCE)
    assert not gradient[0].any()


# ----------------------------------------------------------------------------
# CISPO and rejection tuning


def test_cispo_clips_the_weight_and_keeps_every_gradient() -> None:
    # Weights 4 -> 1.2, 0.5 -> 0.8, 1, 1. Gradient -weight * A / 4.
    # loss = -(1.2 * -1 + 0.8 * -2 - (-1) - (-3)) / 4 = -1.2 / 4
    terms, gradient = loss_and_gradient(
        LOG_PROBS, advantages=[1.0, -1.0], rollout=ROLLOUT, policy_loss="cispo"
    )
    assert terms.loss.item() == pytest.approx(-0.3)
    close(gradient, [[-0.3, -0.2], [0.25, 0.25]])
    assert terms.clipped_sum.item() == 2


def test_cispo_without_a_lower_bound_is_the_papers_setting() -> None:
    _, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, 1.0],
        rollout=ROLLOUT,
        policy_loss="cispo",
        clip_low=1.0,
        clip_high=2.0,
    )
    close(gradient, [[-3 / 4, -0.5 / 4], [-1 / 4, -1 / 4]])


def test_rejection_tuning_is_the_likelihood_of_the_targets() -> None:
    # Sample 0 is the target; 1 was rejected and has no token in the loss: -(-1 - 2) / 2.
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, 0.0],
        rollout=ROLLOUT,
        mask=tensor([[1, 1], [0, 0]]),
        policy_loss="rft",
    )
    assert terms.loss.item() == pytest.approx(1.5)
    close(gradient, [[-0.5, -0.5], [0, 0]])
    assert terms.clipped_sum.item() == 0


# ----------------------------------------------------------------------------
# Correction of the gap between engine and learner: weights 4, 0.5, 1, 1

CORRECTIONS = [
    # Weights in [0.6, 2]: 2, 0.6, 1, 1.
    ("token_clip", [2.0, 0.6, 1.0, 1.0]),
    # 4 and 0.5 are out of bounds.
    ("token_mask", [0.0, 0.0, 1.0, 1.0]),
    # Their geometric mean, 1.414, is within: the weights stay as they are.
    ("sequence_mask", [4.0, 0.5, 1.0, 1.0]),
    # It is what both tokens weigh.
    ("sequence_clip", [math.sqrt(2.0), math.sqrt(2.0), 1.0, 1.0]),
]


@pytest.mark.parametrize(("correction", "weights"), CORRECTIONS)
def test_the_correction_weighs_tokens(correction: str, weights: list[float]) -> None:
    # The ratio is 1, so loss = -sum(weight * A) / 4 and the gradient -weight * A / 4.
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, -1.0],
        rollout=ROLLOUT,
        old_log_probs="learner",
        importance_correction=correction,
        importance_min=0.6,
        importance_max=2.0,
    )
    signed = [a * w for a, w in zip([1, 1, -1, -1], weights, strict=True)]
    assert terms.loss.item() == pytest.approx(-sum(signed) / 4)
    close(gradient.flatten(), [-s / 4 for s in signed])


def test_a_sample_whose_mean_weight_is_out_of_bounds_is_left_out_whole() -> None:
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, -1.0],
        rollout=ROLLOUT,
        old_log_probs="learner",
        importance_correction="sequence_mask",
        importance_min=0.5,
        importance_max=1.4,
    )
    assert terms.loss.item() == pytest.approx(2 / 4)
    assert not gradient[0].any()


def test_the_weight_of_a_sample_is_clipped() -> None:
    # sqrt(2) is cut to 1.2, and 1 raised to 1.1 beside it.
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, -1.0],
        rollout=ROLLOUT,
        old_log_probs="learner",
        importance_correction="sequence_clip",
        importance_min=1.1,
        importance_max=1.2,
    )
    assert terms.loss.item() == pytest.approx(-(2 * 1.2 - 2 * 1.1) / 4)
    close(gradient, [[-1.2 / 4, -1.2 / 4], [1.1 / 4, 1.1 / 4]])


@pytest.mark.parametrize(
    "correction", ["token_clip", "token_mask", "sequence_clip", "sequence_mask"]
)
def test_a_correction_survives_samples_without_tokens(correction: str) -> None:
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, -1.0],
        rollout=torch.full_like(LOG_PROBS, -math.inf),
        mask=tensor([[0, 0], [0, 0]]),
        old_log_probs="learner",
        importance_correction=correction,
        loss_aggregation="sequence",
    )
    assert terms.loss.item() == 0
    assert not gradient.any()


# ----------------------------------------------------------------------------
# Aggregation, KL in the reward, entropy


def test_constant_aggregation_divides_by_samples_times_the_fixed_length() -> None:
    # Of sample 0 one token with A = 2, of sample 1 two with -1: -(2 - 1 - 1) / (2 * 10) = 0. The
    # gradient of a token is -A / 20, however long its sample is.
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[2.0, -1.0],
        mask=tensor([[1, 0], [1, 1]]),
        loss_aggregation="constant",
        constant_length_tokens=10,
    )
    assert terms.loss.item() == pytest.approx(0, abs=1e-12)
    close(gradient, [[-0.1, 0], [0.05, 0.05]])


def test_constant_aggregation_is_of_the_kl_and_of_every_policy_loss() -> None:
    for policy_loss in ("ppo", "cispo", "rft"):
        settings = {"policy_loss": policy_loss, "old_log_probs": "learner"}
        _, gradient = loss_and_gradient(
            LOG_PROBS,
            advantages=[2.0, -1.0],
            loss_aggregation="constant",
            constant_length_tokens=10,
            **settings,
        )
        close(gradient, [[-0.1, -0.1], [0.05, 0.05]])
    reference = LOG_PROBS - math.log(2)
    terms, _ = loss_and_gradient(
        LOG_PROBS,
        advantages=[0.0, 0.0],
        reference=reference,
        loss_aggregation="constant",
        constant_length_tokens=10,
        kl_coef=1.0,
        kl_estimator="k1",
    )
    assert terms.loss.item() == pytest.approx(4 * math.log(2) / 20, abs=KL_TOLERANCE)


def test_kl_in_the_reward_is_paid_by_each_tokens_advantage() -> None:
    # k1 = ln 4 and -ln 2 at sample 0, coefficient 0.5: advantages 1 - 0.693147 and 1 + 0.346574.
    reference = LOG_PROBS - tensor([[math.log(4), -math.log(2)], [0, 0]])
    terms, gradient = loss_and_gradient(
        LOG_PROBS,
        advantages=[1.0, -1.0],
        reference=reference,
        kl_coef=0.5,
        kl_in="reward",
        kl_estimator="k1",
    )
    close(gradient * 4, [[-0.306853, -1.346574], [1, 1]], KL_TOLERANCE)
    assert terms.loss.item() == pytest.approx((-0.306853 - 1.346574 + 2) / 4, abs=KL_TOLERANCE)


@pytest.mark.parametrize(("estimator", "pulls"), [("k1", True), ("k2", False), ("k3", False)])
def test_only_k1_in_the_reward_pulls_a_policy_back_that_is_near_the_reference(
    estimator: Any, pulls: bool
) -> None:
    # The exact mean over both tokens of a policy (0.51, 0.49), the reference being (0.5, 0.5):
    # the KL's gradient along the first logit is p * q * ln(p / q) = 0.01.
    logits = tensor([math.log(0.51 / 0.49), 0.0]).requires_grad_()
    log_probs = logits.log_softmax(-1).unsqueeze(-1)
    config = AlgorithmConfig(kl_coef=1.0, kl_in="reward", kl_estimator=estimator)
    for token, probability in enumerate(log_probs.detach().exp().flatten().tolist()):
        loss = grpo_loss(
            log_probs=log_probs[token : token + 1],
            rollout_log_probs=log_probs[token : token + 1].detach(),
            reference_log_probs=tensor([[math.log(0.5)]]),
            advantages=tensor([0.0]),
            mask=tensor([[1.0]]),
            denominators=Denominators(num_tokens=1, num_samples=1, num_ranks=1),
            config=config,
        ).loss
        (probability * loss).backward(retain_graph=True)
    assert logits.grad is not None
    exact = 0.51 * 0.49 * math.log(0.51 / 0.49)
    assert logits.grad[0].item() == pytest.approx(exact if pulls else 0, abs=2e-4)


def test_the_entropy_bonus_lowers_the_loss_and_needs_an_entropy() -> None:
    entropy = tensor([[1.0, 2.0], [3.0, 4.0]]).requires_grad_()
    terms, _ = loss_and_gradient(
        LOG_PROBS,
        advantages=[0.0, 0.0],
        entropy=entropy,
        entropy_coef=0.1,
        mask=tensor([[1, 1], [1, 0]]),
    )
    assert terms.loss.item() == pytest.approx(-0.1 * (1 + 2 + 3) / 3)
    assert entropy.grad is not None
    close(entropy.grad, [[-0.1 / 3, -0.1 / 3], [-0.1 / 3, 0]])
    with pytest.raises(AssertionError, match="entropy with gradient"):
        loss_and_gradient(LOG_PROBS, advantages=[0.0, 0.0], entropy_coef=0.1)
