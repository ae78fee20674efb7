"""Sampling with a seed for each request on CPU, without noise for each token of the vocabulary.

vLLM samples a seeded request by an exponential race: the token with the largest p_i / e_i, where
the e_i are exponential numbers of the request's generator, one for each of V tokens. On a
CPU they are drawn one by one, which takes a quarter of the time of generation (V = 49,152).
The inverse of the cumulative distribution needs one uniform number for a token:

    the first i with p_1 + ... + p_i > u (p_1 + ... + p_V),    u uniform in [0, 1)

The distribution is the same; which token a seed gives is not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Generator, Tensor
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

# Tells our engines' processes from others that load vLLM's plugins, such as judge servers.
VARIABLE, INVERSE_CDF = "RUBRIC_RL_SEEDED_SAMPLING", "inverse_cdf"


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
    # In double precision: in single, a long tail of small probabilities is lost in the sum.
    cumulative_BV = probs_BV.cumsum(dim=-1, dtype=torch.float64)
    total_B1 = cumulative_BV[:, -1:]
    uniform_B1 = torch.stack(
        [
            torch.rand(1, dtype=torch.float64, generator=generators[row])
            for row in range(len(probs_BV))
        ]
    )
    # Below the sum, though a product may be rounded up to it: a token is always found.
    target_B1 = torch.minimum(
        uniform_B1 * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1))
    )
    return torch.searchsorted(cumulative_BV, target_B1, right=True).squeeze(1)


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
