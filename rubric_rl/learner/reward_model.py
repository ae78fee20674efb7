"""A reward model: a causal language model with a scalar head on the last token of an answer.

It is transformers' sequence classifier with one output, so whatever reads those reads ours. The
last token is the one that ends the turn. The classifier finds it as the last that is not
the padding token, so padding has to be another token than that: `padding_id` chooses one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from rubric_rl.learner.models import without_dropout

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_reward_model(
    model_path: str,
    *,
    dtype: str,
    device: torch.device,
    trust_remote_code: bool,
    attn_implementation: str = "sdpa",
) -> PreTrainedModel:
    """A reward model, or a policy with a new head, drawn from torch's generator.

    Dropout stays off.
    """
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        model_path,
        num_labels=1,
        dtype=_DTYPES[dtype],
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    model.eval()
    without_dropout(model)
    model.config.use_cache = False
    nn.Module.to(model, device)
    return model


def padding_id(model_path: str, end_of_turn: int, *, trust_remote_code: bool) -> int:
    """The tokenizer's padding token, or another one where that also ends turns."""
    tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0, 1)
    return next(one for one in candidates if one is not None and one != end_of_turn)


def sequence_rewards(model: nn.Module, sequences: Sequence[Sequence[int]], pad: int) -> Tensor:
    """[B] float32 rewards of token sequences of any lengths, none of which ends in `pad`.

    `model` is the reward model or DeepSpeed's engine around it, with `pad` as the padding token
    of its configuration.
    """
    assert all(sequence[-1] != pad for sequence in sequences)
    longest = max(len(sequence) for sequence in sequences)
    device = next(model.parameters()).device
    ids = [[*sequence, *[pad] * (longest - len(sequence))] for sequence in sequences]
    mask = [[1] * len(s) + [0] * (longest - len(s)) for s in sequences]
    output = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        use_cache=False,
    )
    return output.logits[:, 0].float()
