"""The policy as a transformers model: load it, group its parameters."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from rubric_rl.config.schema import LearnerConfig, ModelConfig
from rubric_rl.learner import packed_attention

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def torch_device(device: Literal["cpu", "gpu"]) -> torch.device:
    """The device of `cluster.device`. Each rank sees one GPU only."""
    return torch.device("cuda", 0) if device == "gpu" else torch.device("cpu")


def load_causal_lm(
    model_path: str, model: ModelConfig, learner: LearnerConfig, device: torch.device
) -> PreTrainedModel:
    """Load with the learner's compute type. Dropout, if the model has any, stays off:
    the ratio compares log-probs of one and the same function."""
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype=_DTYPES[learner.dtype],
        attn_implementation=packed_attention.NAME
        if learner.packing
        else learner.attn_implementation,
        trust_remote_code=model.trust_remote_code,
    )
    loaded.eval()
    without_dropout(loaded)
    loaded.config.use_cache = False
    # As a Module: transformers wraps `to` in a way that hides its signature.
    nn.Module.to(loaded, device)
    return loaded


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: matrices (embeddings too) decay, norms and biases do not.

    Frozen ones are in none. With no decay there is one group, as ZeRO keeps a buffer for each.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if weight_decay == 0:
        return [{"params": parameters, "weight_decay": 0.0}]
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def without_dropout(model: nn.Module) -> None:
    """Gradient checkpointing needs the training mode, which would switch dropout on."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - not declared on Module
