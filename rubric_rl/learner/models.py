"""Load the policy and its frozen reference with transformers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from rubric_rl.config.schema import LearnerConfig, ModelConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_causal_lm(
    model_path: str, model: ModelConfig, learner: LearnerConfig, device: torch.device
) -> PreTrainedModel:
    """Load with the learner's compute type. Dropout, if the model has any, stays off:
    the ratio compares log-probs of one and the same function."""
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype=_DTYPES[learner.dtype],
        attn_implementation=learner.attn_implementation,
        trust_remote_code=model.trust_remote_code,
    )
    loaded.eval()
    _without_dropout(loaded)
    loaded.config.use_cache = False
    # As a Module: transformers wraps `to` in a way that hides its signature.
    nn.Module.to(loaded, device)
    return loaded


def _without_dropout(model: nn.Module) -> None:
    """Gradient checkpointing needs the training mode, which would switch dropout on."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - not declared on Module
