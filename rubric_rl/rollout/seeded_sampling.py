"""Sampling with a seed for each request on CPU, without noise for each token of the vocabulary.

vLLM samples a seeded request by an exponential race: the token with the largest p_i / e_i, where
the e_i are exponential numbers of the request's generator, one for each of V tokens. On a
CPU they are drawn one by one, which takes a quarter of the time of generation (V = 49,152).
The inverse of the cumulative distribution needs one uniform number for a token:

    the first i with p_1 + ... + p_i > u (p_1 + ... + p_V),    u uniform in [0, 1)

The distribution is the same; which token a seed gives is not. The sum runs over blocks first and
then within one, since a running sum over the vocabulary is slow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Generator, Tensor
from torch.nn import functional
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

# Tells our engines' processes from others that load vLLM's plugins, such as judge servers.
VARIABLE, INVERSE_CDF = "RUBRIC_RL_SEEDED_SAMPLING", "inverse_cdf"
_BLOCK = 256


def register() -> None:
    """Called by vLLM in each of its processes (entry point group `vllm.general_plugins`)."""
    if os.environ.get(VARIABLE) == INVERSE_CDF:
        TopKTopPSampler.forward_cpu = _forward_cpu


def sample_by_inverse_cdf(probs_BV: Tensor, generators: Mapping[int, Generator]) -> Tensor:
    """Token ids [B] int64, each drawn with one number of its row's generator.

    Args:
        probs_BV: not negative, not all zero in a row; need not add up to one.
        generators: of all rows.
    """
    num_tokens = probs_BV.shape[1]
    probs_BKC = functional.pad(probs_BV, (0, -num_tokens % _BLOCK)).unflatten(1, (-1, _BLOCK))
    # In double precision: in single, a long tail of small probabilities is lost in the sum.
    blocks_BK = probs_BKC.sum(dim=-1, dtype=torch.float64)
    uniform_B1 = torch.stack(
        [
            torch.rand(1, dtype=torch.float64, generator=generators[row])
            for row in range(len(probs_BV))
        ]
    )
    block_B1, rest_B1 = _find(blocks_BK, uniform_B1 * blocks_BK.sum(dim=-1, keepdim=True))
    chosen_BC = probs_BKC.take_along_dim(block_B1[..., None], dim=1).squeeze(1)
    token_B1, _ = _find(chosen_BC.double(), rest_B1)
    return (block_B1 * _BLOCK + token_B1).squeeze(1)


def _find(weights_BN: Tensor, target_B1: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 1] the first place at which the sum passes the target, and what is left before it."""
    cumulative_BN = weights_BN.cumsum(dim=-1)
    total_B1 = cumulative_BN[:, -1:]
    # Below the sum, though a product may be rounded up to it: a place is always found, and
    # never one of weight 0.
    target_B1 = torch.minimum(target_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    place_B1 = torch.searchsorted(cumulative_BN, target_B1, right=True)
    before_B1 = functional.pad(cumulative_BN, (1, 0)).take_along_dim(place_B1, dim=1)
    return place_B1, target_B1 - before_B1


_vllm_forward_cpu = TopKTopPSampler.forward_cpu


def _forward_cpu(
    self: TopKTopPSampler,
    logits: Tensor,
    generators: dict[int, Generator],
    k: Tensor | None,
    p: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """In place of vLLM's, which still takes batches where a request has no seed."""
    if len(generators) < len(logits) or self.logprobs_mode != "processed_logprobs":
        return _vllm_forward_cpu(self, logits, generators, k, p)
    log_probs = apply_top_k_top_p(logits, k, p).log_softmax(dim=-1, dtype=torch.float32)
    return sample_by_inverse_cdf(log_probs.exp(), generators), log_probs
