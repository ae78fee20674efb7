"""Log-probs of completion tokens under a causal language model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rubric_rl.learner.batch import MicroBatchTensors


class TokenLogProbs(NamedTuple):
    """Per completion token; values at padding are meaningless."""

    log_probs: Tensor
    """[B, T] float32."""
    entropy: Tensor
    """[B, T] float32, without gradient."""


def completion_log_probs(
    model: nn.Module, batch: MicroBatchTensors, *, temperature: float
) -> TokenLogProbs:
    """Log-probs of `batch.completion_ids` at the sampling temperature.

    The head runs only for the T positions that predict completion tokens, that
    is one before each.
    """
    num_completion = batch.completion_ids.shape[1]
    outputs = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=num_completion + 1,
        use_cache=False,
    )
    logits_BTV = outputs.logits[:, :-1].float()
    if temperature != 1.0:
        logits_BTV = logits_BTV / temperature
    normalizer_BT = logits_BTV.logsumexp(dim=-1)
    chosen_BT = logits_BTV.gather(-1, batch.completion_ids.unsqueeze(-1)).squeeze(-1)
    return TokenLogProbs(chosen_BT - normalizer_BT, _entropy(logits_BTV, normalizer_BT))


@torch.no_grad()
def _entropy(logits_BTV: Tensor, normalizer_BT: Tensor) -> Tensor:
    # Row by row: the softmax of all rows at once would double the peak memory.
    expected = [
        (torch.softmax(logits_TV, dim=-1) * logits_TV).sum(dim=-1) for logits_TV in logits_BTV
    ]
    return normalizer_BT - torch.stack(expected)
