"""Log-probs of completion tokens under a causal language model.

The model's own forward pass runs with its head replaced by one that returns log-probs
instead of logits (`chunked_head`). So a wrapper around the model (DeepSpeed's engine
and its hooks) sees an ordinary forward pass, in which the head is called once: under
ZeRO-3 its weight is gathered once for all chunks, and ranks with different numbers of
tokens take part in the same collectives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rubric_rl.errors import ModelError
from rubric_rl.learner.batch import (
    MicroBatchTensors,
    build_micro_batch,
    build_packed_micro_batch,
)
from rubric_rl.learner.chunked_head import HeadSettings, head_log_probs
from rubric_rl.types import TrainSample

logger = logging.getLogger(__name__)

# Well above rounding, well below what a token of another sample does to a log-prob.
_LARGEST_PACKING_GAP = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1}

Entropy = Literal["none", "value", "gradient"]
"""`none` leaves it out (zeros), `value` has no gradient."""


class TokenLogProbs(NamedTuple):
    """Per completion token; finite, but meaningless where `loss_mask` is 0."""

    log_probs: Tensor
    """[B, T] float32."""
    entropy: Tensor
    """[B, T] float32."""


class ChunkedHead(NamedTuple):
    """A head that may be applied to chunks of tokens."""

    module: nn.Linear
    chunk_tokens: int


def find_chunked_head(model: PreTrainedModel, chunk_tokens: int) -> ChunkedHead | None:
    """The head of `model`, or None (and a line in the log) if its logits must be made at once.

    That is so where the head is no plain matrix, or where the model changes the head's
    output afterwards (soft-capping, scaling). One token is run to see the latter, so the
    weights must be all there: call it before DeepSpeed shards them.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        reason = f"its head is {type(head).__name__}, not nn.Linear"
    elif not _returns_what_its_head_returns(model, head):
        reason = "it changes its head's output (soft-capping or scaling)"
    else:
        return ChunkedHead(head, chunk_tokens)
    logger.warning(
        "%s: logits of a micro-batch exist all at once, learner.logits_chunk_tokens=%d has no "
        "effect: %s",
        type(model).__name__,
        chunk_tokens,
        reason,
    )
    return None


@torch.no_grad()
def _returns_what_its_head_returns(model: PreTrainedModel, head: nn.Linear) -> bool:
    returned: list[Tensor] = []

    def forward(hidden_BSH: Tensor) -> Tensor:
        returned.append(torch.ones(hidden_BSH.shape[:2], device=hidden_BSH.device)[..., None])
        return returned[0]

    one = torch.ones(1, 1, dtype=torch.int64, device=head.weight.device)
    with _forward_replaced(head, forward):
        logits = model(input_ids=one, attention_mask=one, logits_to_keep=1).logits
    return bool(returned) and logits is returned[0]


@torch.no_grad()
def check_packing(model: PreTrainedModel, head: ChunkedHead | None) -> None:
    """Check that `model` gives packed samples the log-probs that padded ones get.

    Two samples of one prompt and one of another are run both ways, so the weights must be
    all there. A window shorter than the sequences would not show in them.

    Raises:
        ModelError: it doesn't, and why.
    """
    if head is None:
        reason = "its head is not applied in chunks"
    elif model.config.to_dict().get("sliding_window") is not None:
        reason = "its attention has a sliding window"
    elif (gap := _packing_gap(model, head)) > _LARGEST_PACKING_GAP[model.dtype]:
        reason = f"log-probs of packed samples are off by up to {gap:.2g}"
    else:
        return
    raise ModelError(
        f"learner.packing=true does not go with {type(model).__name__}: {reason}. Set "
        "learner.packing=false"
    )


def _packing_gap(model: PreTrainedModel, head: ChunkedHead) -> float:
    samples = [
        TrainSample(
            prompt_token_ids=prompt,
            completion_token_ids=completion,
            rollout_log_probs=(0.0,) * len(completion),
            loss_mask=(1,) * len(completion),
            advantage=0.0,
        )
        for prompt, completion in (((1, 2, 3), (4, 5)), ((1, 2, 3), (6, 7, 8)), ((9,), (3, 1)))
    ]
    padded, packed = (
        completion_log_probs(model, batch, temperature=1.0, head=head, entropy="none").log_probs
        for batch in (
            build_micro_batch(samples, model.device),
            build_packed_micro_batch(samples, model.device),
        )
    )
    return (padded - packed).abs().max().item()


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Calls of `module` run `forward`; its hooks stay."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # the class's own shows again


def completion_log_probs(
    model: nn.Module,
    batch: MicroBatchTensors,
    *,
    temperature: float,
    head: ChunkedHead | None = None,
    entropy: Entropy = "value",
) -> TokenLogProbs:
    """Log-probs of `batch.completion_ids` at the sampling temperature.

    With a `head` (of this very model) it runs for the tokens in the loss only, in chunks;
    without, for the T positions that predict completion tokens, and `batch` must be padded.
    """
    if head is None:
        logits_BSV = _run(model, batch, num_kept=batch.completion_ids.shape[1] + 1)
        return _from_logits(logits_BSV, batch.completion_ids, temperature, entropy)
    settings = HeadSettings(temperature, head.chunk_tokens, entropy)

    def forward(hidden_RLH: Tensor) -> Tensor:
        return torch.stack(_where_in_loss(hidden_RLH, batch, head.module, settings), -1)

    with _forward_replaced(head.module, forward):
        log_probs_BT, entropy_BT = _run(model, batch, num_kept=0).unbind(-1)
    return TokenLogProbs(log_probs_BT, entropy_BT if entropy == "gradient" else entropy_BT.detach())


def _run(model: nn.Module, batch: MicroBatchTensors, *, num_kept: int) -> Tensor:
    """What the head gives for the last `num_kept` positions of each row; 0 stands for all."""
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=num_kept,
        use_cache=False,
        **({} if batch.packed_layout is None else {"packed_layout": batch.packed_layout}),
    ).logits


def _where_in_loss(
    hidden_RLH: Tensor, batch: MicroBatchTensors, head: nn.Linear, settings: HeadSettings
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropy [B, T], zero at tokens outside the loss."""
    in_loss_BT = batch.loss_mask > 0
    # Not by `[]`: a shared prompt's last state is taken several times, and only this one's
    # gradient is summed in a fixed order.
    hidden_NH = hidden_RLH.flatten(0, 1).index_select(0, batch.predictors[in_loss_BT])
    log_probs_N, entropy_N = head_log_probs(
        head, hidden_NH, batch.completion_ids[in_loss_BT], settings
    )
    zeros_BT = log_probs_N.new_zeros(in_loss_BT.shape)
    return (
        zeros_BT.masked_scatter(in_loss_BT, log_probs_N),
        zeros_BT.masked_scatter(in_loss_BT, entropy_N),
    )


def _from_logits(
    logits_BSV: Tensor, completion_ids: Tensor, temperature: float, entropy: Entropy
) -> TokenLogProbs:
    logits_BTV = logits_BSV[:, :-1].float()
    if temperature != 1.0:
        logits_BTV = logits_BTV / temperature
    normalizer_BT = logits_BTV.logsumexp(dim=-1)
    chosen_BT = logits_BTV.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    if entropy == "none":
        entropy_BT = torch.zeros_like(normalizer_BT, requires_grad=False)
    else:
        with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
            entropy_BT = _entropy(logits_BTV, normalizer_BT)
    return TokenLogProbs(chosen_BT - normalizer_BT, entropy_BT)


def _entropy(logits_BTV: Tensor, normalizer_BT: Tensor) -> Tensor:
    # Row by row: the softmax of all rows at once would double the peak memory.
    expected = [
        (torch.softmax(logits_TV, dim=-1) * logits_TV).sum(dim=-1) for logits_TV in logits_BTV
    ]
    return normalizer_BT - torch.stack(expected)
