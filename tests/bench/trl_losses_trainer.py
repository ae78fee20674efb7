"""The other half of `trl_losses.py`, in TRL's environment: TRL's function, our inputs.

The trainer is made without its constructor, which wants a model and data: it gets what
`_compute_loss` reads, and log-probs in place of a model's. The ratio of the vLLM corrections,
which TRL works out while it generates, is written out here from its source.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from accelerate import Accelerator
from trl import GRPOTrainer

sys.path.insert(0, sys.argv[1])
from trl_cases import LENGTH, SEEDS, TRL_CASES, Inputs, Trl, random_inputs


def make_trainer(case: Trl, log_probs: torch.Tensor, accelerator: Accelerator) -> Any:
    trainer: Any = object.__new__(GRPOTrainer)
    trainer.args = SimpleNamespace(
        delta=case.delta, use_bias_correction_kl=False, steps_per_generation=1
    )
    trainer.accelerator = accelerator
    trainer.model = SimpleNamespace(training=True)
    trainer._metrics = {"train": defaultdict(list)}
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        log_probs, torch.zeros_like(log_probs), None
    )  # fmt: skip
    trainer.aux_loss_enabled = trainer._entropy_bonus_enabled = False
    trainer.top_entropy_quantile = 1.0
    trainer.off_policy_mask_threshold = None
    trainer.importance_sampling_level = case.importance_sampling_level
    trainer.beta = case.beta
    trainer.loss_type = case.loss_type
    trainer.epsilon_low, trainer.epsilon_high = case.epsilon, case.epsilon_high
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = case.vllm_mode is not None
    trainer.current_gradient_accumulation_steps = 1
    trainer.max_completion_length = LENGTH
    return trainer


def batch(case: Trl, inputs: Inputs) -> dict[str, Any]:
    """Old log-probs are the engine's, or with a vLLM correction the learner's (None)."""
    tokens = torch.zeros(inputs.mask.shape, dtype=torch.long)
    found = {
        "prompt_ids": tokens,
        "prompt_mask": tokens,
        "completion_ids": tokens,
        "completion_mask": inputs.mask,
        "advantages": inputs.advantages,
        "old_per_token_logps": None if case.vllm_mode else inputs.rollout,
        "ref_per_token_logps": inputs.reference,
        "num_items_in_batch": inputs.mask.sum(),
    }
    if case.vllm_mode is not None:
        ratio = ((inputs.log_probs - inputs.rollout) * inputs.mask).exp()
        found["importance_sampling_ratio"] = (
            ratio.clamp(max=case.vllm_clip_max)
            if case.vllm_mode == "token_truncate"
            else ratio.masked_fill(ratio > case.vllm_clip_max, 0.0)
        )
    return found


def result(case: Trl, seed: int, accelerator: Accelerator) -> dict[str, Any]:
    inputs = random_inputs(seed)
    log_probs = inputs.log_probs.clone().requires_grad_()
    trainer = make_trainer(case, log_probs, accelerator)
    loss = GRPOTrainer._compute_loss(trainer, None, batch(case, inputs))
    loss.backward()
    assert log_probs.grad is not None
    return {"loss": loss.item(), "gradient": log_probs.grad.tolist()}


def main() -> None:
    accelerator = Accelerator(cpu=True)
    recorded = {
        "trl": trl.__version__,
        "log_probs": [random_inputs(seed).log_probs.tolist() for seed in SEEDS],
        "cases": {
            name: [result(case, seed, accelerator) for seed in SEEDS]
            for name, (_, case) in TRL_CASES.items()
        },
    }
    out = Path(sys.argv[1]) / "trl_losses.json"
    out.write_text(json.dumps(recorded) + "\n", encoding="utf-8")
    print(f"{out}: {len(recorded['cases'])} cases, {len(SEEDS)} seeds, TRL {trl.__version__}")


if __name__ == "__main__":
    main()
