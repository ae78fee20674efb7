"""The Bradley-Terry loss of a reward model.

    P(w better than l) = sigmoid(r_w - r_l)        loss = -log sigmoid(r_w - r_l)

Bradley and Terry, 1952; as the loss of a reward model Ouyang et al., arXiv 2203.02155, eq. 1,
with one pair a prompt; "Chasing the Tail", appendix D. Only differences of rewards count, so a
reward model's zero means nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[B] -log sigmoid of the margin, stable for margins of any size.

    Args:
        chosen: [B] rewards of the answers that were preferred.
        rejected: [B] rewards of the others.
    """
    return F.softplus(rejected - chosen)
