"""The policy that is trained: model, adapters, optimizer, in DeepSpeed's engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedModel

from rubric_rl.config.learner import LearnerConfig
from rubric_rl.learner.accelerator import deepspeed
from rubric_rl.learner.deepspeed_config import deepspeed_config
from rubric_rl.learner.log_probs import ChunkedHead, check_packing, find_chunked_head
from rubric_rl.learner.lora import add_adapters
from rubric_rl.learner.models import load_causal_lm, parameter_groups
from rubric_rl.learner.numerics import FlopCount
from rubric_rl.learner.spec import LearnerSpec
from rubric_rl.learner.weights import PolicyWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One rank's share of it."""

    engine: deepspeed.DeepSpeedEngine
    head: ChunkedHead | None
    weights: PolicyWeights
    flop: FlopCount

    @property
    def model(self) -> PreTrainedModel:
        """The model inside the engine."""
        return cast(PreTrainedModel, self.engine.module)


def build_policy(spec: LearnerSpec, device: torch.device) -> Policy:
    """Load the model and hand it to DeepSpeed; a collective of all ranks.

    Raises:
        ModelError: it does not go with the learner's settings.
    """
    config = spec.learner
    model = load_causal_lm(spec.model_path, spec.model, config, device)
    if config.lora.enabled:
        add_adapters(model, config.lora)
        torch.nn.Module.to(model, device)
    # These two need the weights all there, before they are sharded.
    head, flop = find_chunked_head(model, config.logits_chunk_tokens), FlopCount.of(model)
    if config.packing:
        check_packing(model, head)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    engine = build_engine(model, config, num_steps=spec.num_steps, device=device)
    weights = PolicyWeights(cast(PreTrainedModel, engine.module), is_sharded=config.zero_stage == 3)
    return Policy(engine=engine, head=head, weights=weights, flop=flop)


def build_engine(
    model: PreTrainedModel, config: LearnerConfig, *, num_steps: int, device: torch.device
) -> deepspeed.DeepSpeedEngine:
    """The model with its optimizer and schedule; a collective of all ranks."""
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        # One pass over the weights instead of a dozen. On GPU torch takes its own way to that,
        # and DeepSpeed restores the step's count on the host, where a fused one can't have it.
        fused=True if device.type == "cpu" else None,
    )
    num_warmup = round(config.warmup_frac * num_steps)
    last = num_steps if config.schedule == "cosine" else None
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule_factor(step, num_warmup, last)
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_config(config, device.type),
        # DeepSpeed's signature names the base class that torch has deprecated.
        lr_scheduler=cast("torch.optim.lr_scheduler._LRScheduler", scheduler),
    )
    return engine


def schedule_factor(step: int, num_warmup: int, num_steps: int | None = None) -> float:
    """Learning-rate factor of the step after `step` completed ones: linear up, then 1.

    With `num_steps` it falls again along half a cosine, to reach 0 after the last of them. The
    first step is taken at 1/num_warmup, not at zero.
    """
    if step < num_warmup or num_steps is None:
        return min(1.0, (step + 1) / max(1, num_warmup))
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    return 0.5 * (1.0 + math.cos(math.pi * progress))
