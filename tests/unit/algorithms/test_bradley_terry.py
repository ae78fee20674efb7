"""The Bradley-Terry loss by hand."""

import math

import pytest
import torch

from rubric_rl.algorithms.bradley_terry import bradley_terry_loss


def test_loss_and_gradient_by_hand():
    # Margins 0, 2 and -1: log 2, log(1 + e^-2), log(1 + e).
    chosen = torch.tensor([1.0, 3.0, 0.5], requires_grad=True)
    losses = bradley_terry_loss(chosen, torch.tensor([1.0, 1.0, 1.5]))
    expected = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.e)]
    assert losses.tolist() == pytest.approx(expected)
    losses.sum().backward()
    # d loss / d r_w = -sigmoid(r_l - r_w).
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.5, -0.1192029, -0.7310586])


def test_only_the_difference_counts_and_no_margin_overflows():
    chosen, rejected = torch.tensor([1e4, -1e4, 0.3]), torch.tensor([-1e4, 1e4, 0.1])
    losses = bradley_terry_loss(chosen, rejected)
    assert losses[:2].tolist() == [0.0, 2e4]
    shifted = bradley_terry_loss(chosen[2:] + 7, rejected[2:] + 7)
    assert shifted.tolist() == pytest.approx(losses[2:].tolist(), rel=1e-5)
