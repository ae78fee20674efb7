"""Attention of a packed row (`batch`), prompt by prompt instead of over the whole row.

A mask of the whole row would leave most of the L x L scores unused: a token sees its own
sample only. So each prompt attends to itself, and then all of its completions at once,
padded to the longest, to the prompt and themselves:

    row            p p p | c c c c | d d          scores of n completions, T the longest:
    queries [n, T]         c c c c                  n x T x (P + T) instead of (P + n T)^2
                           d d . .
    keys [n, P + T]  p p p c c c c
                     p p p d d . .

Padding comes last, so the causal mask hides it, and what its queries see is dropped. Its
positions repeat a real token, which gets a gradient of exactly zero from there.

transformers knows it as an attention implementation under `NAME`; a micro-batch without a
layout is attended to as with `sdpa`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "rubric_rl_packed_sdpa"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedGroup:
    """A prompt of P tokens in a row and its n completions, which follow it."""

    prompt_start: int
    prompt_end: int
    padded_n_T: Tensor
    """[n, T] int64: places of the completions' tokens in the row; padding repeats the first."""
    real_N: Tensor
    """[N] int64: places of the completions' tokens in the flattened [n x T]."""
    seen_TS: Tensor
    """[T, P + T] bool: which keys a token sees."""

    @staticmethod
    def of(prompt_start: int, prompt_end: int, lengths: Sequence[int]) -> PackedGroup:
        """Of completions of these lengths, the first of which starts at `prompt_end`."""
        longest = max(lengths)
        steps_T = torch.arange(longest)
        lengths_n1 = torch.tensor(lengths)[:, None]
        starts_n1 = prompt_end + lengths_n1.cumsum(0) - lengths_n1
        is_real_n_T = steps_T < lengths_n1
        num_prompt = prompt_end - prompt_start
        return PackedGroup(
            prompt_start=prompt_start,
            prompt_end=prompt_end,
            padded_n_T=starts_n1 + steps_T * is_real_n_T,
            real_N=is_real_n_T.flatten().nonzero().flatten(),
            seen_TS=torch.ones(longest, num_prompt + longest, dtype=torch.bool).tril(num_prompt),
        )

    def to(self, device: torch.device) -> PackedGroup:
        return PackedGroup(
            prompt_start=self.prompt_start,
            prompt_end=self.prompt_end,
            padded_n_T=self.padded_n_T.to(device),
            real_N=self.real_N.to(device),
            seen_TS=self.seen_TS.to(device),
        )


PackedLayout = tuple[PackedGroup, ...]
"""The groups of one row, in their order, without gaps."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_layout: PackedLayout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """`sdpa` of transformers, over `packed_layout` if there is one.

    Args:
        module: the attention layer.
        query: [R, heads, L, D]; R is 1 with a layout.
        key: [R, key heads, L, D].
        value: [R, key heads, L, D].
        attention_mask: of no meaning with a layout.
        packed_layout: what sees what.
        options: scaling, dropout and the like.

    Returns:
        [R, L, heads, D].
    """
    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    options.pop("is_causal", None)
    parts: list[Tensor] = []
    for group in packed_layout:
        parts.append(_of_prompt(module, query, key, value, group, options))
        parts.append(_of_completions(module, query, key, value, group, options))
    return torch.cat(parts, dim=1), None


def _of_prompt(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: PackedGroup,
    options: dict[str, Any],
) -> Tensor:
    """[1, P, heads, D]."""
    start, length = group.prompt_start, group.prompt_end - group.prompt_start
    query, key, value = (x.narrow(2, start, length) for x in (query, key, value))
    output, _ = sdpa_attention_forward(module, query, key, value, None, is_causal=True, **options)
    return output


def _of_completions(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: PackedGroup,
    options: dict[str, Any],
) -> Tensor:
    """[1, N, heads, D]."""

    def completions(states_1HLD: Tensor) -> Tensor:
        chosen = states_1HLD[0].index_select(1, group.padded_n_T.flatten())
        return chosen.unflatten(1, group.padded_n_T.shape).transpose(0, 1)

    def with_prompt(states_1HLD: Tensor) -> Tensor:
        length = group.prompt_end - group.prompt_start
        prompt = states_1HLD.narrow(2, group.prompt_start, length)
        own = completions(states_1HLD)
        return torch.cat([prompt.expand(len(own), -1, -1, -1), own], dim=2)

    output_nTHD, _ = sdpa_attention_forward(
        module,
        completions(query),
        with_prompt(key),
        with_prompt(value),
        group.seen_TS[None, None],
        is_causal=False,
        **options,
    )
    return output_nTHD.flatten(0, 1).index_select(0, group.real_N)[None]


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
