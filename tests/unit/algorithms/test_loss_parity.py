"""The loss equals OpenRLHF's and TRL's on random inputs, values and gradients.

OpenRLHF 0.11.2 is called. TRL 1.16.0 has an environment of its own, where
`tests/bench/trl_losses.py` called its `GRPOTrainer._compute_loss`; what that returned is in
`trl_losses.json`. Only the standardization of GDPO is written out from TRL's source.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rubric_rl.algorithms.advantages import gdpo_advantages
from rubric_rl.algorithms.openrlhf_losses import PolicyLoss, aggregate_loss, compute_approx_kl
from rubric_rl.algorithms.policy_loss import Denominators, grpo_loss
from rubric_rl.config.algorithm import AlgorithmConfig

from .builders import judged_group, make_rubric
from .trl_cases import ON_POLICY, SEEDS, SEQUENCE, TRL_CASES, Inputs, random_inputs

TOLERANCE = 1e-6


def ours(inputs: Inputs, log_probs: Tensor, **settings: Any) -> Tensor:
    return grpo_loss(
        log_probs=log_probs,
        rollout_log_probs=inputs.rollout,
        reference_log_probs=inputs.reference,
        advantages=inputs.advantages,
        mask=inputs.mask,
        denominators=Denominators(
            num_tokens=int(inputs.mask.sum()), num_samples=len(inputs.mask), num_ranks=1
        ),
        config=AlgorithmConfig(**{"kl_coef": 0.0, **settings}),
    ).loss


def assert_equal(inputs: Inputs, settings: dict[str, Any], theirs: Any) -> None:
    """Same value and same gradient."""
    a = inputs.log_probs.clone().requires_grad_()
    b = inputs.log_probs.clone().requires_grad_()
    loss, their_loss = ours(inputs, a, **settings), theirs(b)
    assert loss.item() == pytest.approx(their_loss.item(), abs=TOLERANCE)
    loss.backward()
    their_loss.backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=TOLERANCE)
    assert b.grad is not None and b.grad.abs().max() > 100 * TOLERANCE


# ----------------------------------------------------------------------------
# OpenRLHF

OPENRLHF = [
    ({}, {}),
    ({"clip_low": 0.1, "clip_high": 0.4}, {"clip_eps_low": 0.1, "clip_eps_high": 0.4}),
    ({"dual_clip": 1.5, **SEQUENCE}, {"dual_clip": 1.5, "token_level_loss": False}),
    ({"policy_loss": "gspo", **SEQUENCE}, {"policy_loss_type": "gspo"}),
    (
        {"importance_correction": "token_clip", **ON_POLICY},
        {"is_correction_level": "token", "is_correction_mode": "clip"},
    ),
    (
        {"importance_correction": "token_mask", "importance_max": 1.3, **ON_POLICY},
        {"is_correction_level": "token", "is_correction_threshold": [0.5, 1.3]},
    ),
    (
        {"importance_correction": "sequence_mask", "importance_max": 1.1, **ON_POLICY},
        {"is_correction_level": "seq", "is_correction_threshold": [0.5, 1.1]},
    ),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("settings", "arguments"), OPENRLHF)
def test_the_policy_term_is_openrlhfs(
    settings: dict[str, Any], arguments: dict[str, Any], seed: int
) -> None:
    inputs = random_inputs(seed)

    def theirs(log_probs: Tensor) -> Tensor:
        old = log_probs.detach() if "old_log_probs" in settings else inputs.rollout
        loss, *_ = PolicyLoss(**arguments)(
            log_probs,
            old,
            inputs.advantages.unsqueeze(-1).expand_as(log_probs),
            action_mask=inputs.mask,
            rollout_log_probs=inputs.rollout,
        )
        return loss

    assert_equal(inputs, settings, theirs)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_term_is_openrlhfs(estimator: str) -> None:
    inputs = random_inputs(0)

    def theirs(log_probs: Tensor) -> Tensor:
        kl = compute_approx_kl(log_probs, inputs.reference, kl_estimator=estimator)
        policy, *_ = PolicyLoss()(
            log_probs,
            inputs.rollout,
            inputs.advantages.unsqueeze(-1).expand_as(log_probs),
            action_mask=inputs.mask,
        )
        return policy + 0.1 * aggregate_loss(kl, inputs.mask)

    assert_equal(inputs, {"kl_coef": 0.1, "kl_estimator": estimator}, theirs)


# ----------------------------------------------------------------------------
# TRL


RECORDED = json.loads(Path(__file__).with_name("trl_losses.json").read_text(encoding="utf-8"))


def test_what_was_recorded_is_of_these_inputs() -> None:
    assert RECORDED["trl"] == "1.16.0"
    for seed in SEEDS:
        inputs = random_inputs(seed)
        recorded = [torch.tensor(RECORDED["log_probs"][seed], dtype=torch.float64)]
        torch.testing.assert_close([inputs.log_probs], recorded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", TRL_CASES)
def test_the_loss_is_trls(name: str, seed: int) -> None:
    inputs, (settings, _) = random_inputs(seed), TRL_CASES[name]
    log_probs = inputs.log_probs.clone().requires_grad_()
    loss = ours(inputs, log_probs, **settings)
    loss.backward()
    recorded = RECORDED["cases"][name][seed]
    assert loss.item() == pytest.approx(recorded["loss"], abs=TOLERANCE)
    theirs = torch.tensor(recorded["gradient"], dtype=torch.float64)
    torch.testing.assert_close(log_probs.grad, theirs, rtol=0, atol=TOLERANCE)
    assert theirs.abs().max() > 100 * TOLERANCE


def test_gdpo_is_trls_normalize_then_sum() -> None:
    # Where all is judged, TRL's weighted sum is our weighted mean times the total weight, and the
    # standardization over the batch takes that factor off, but for the floor of 1e-4.
    verdicts = ["++-", "+--", "-+-", "--+", "+++", "-++"]
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    rewards = torch.tensor([[float(m == "+") for m in marks] for marks in verdicts]).double()
    per_criterion = (rewards - rewards.mean(0)) / (rewards.std(0) + 1e-4)
    summed = (per_criterion * weights).sum(1)
    theirs = (summed - summed.mean()) / (summed.std() + 1e-4)
    (advantages,) = gdpo_advantages([judged_group(make_rubric(1.0, 2.0, 3.0), *verdicts)])
    assert advantages == pytest.approx(theirs.tolist(), abs=1e-3)
