"""How large a run's checkpoints are, and how many of them there are at once."""

from __future__ import annotations

import math

from rubric_rl.config.schema import Config

# float32 weights and Adam's two moments, in every ZeRO stage.
_OPTIMIZER_BYTES = 12
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


def checkpoint_bytes(config: Config, num_parameters: int) -> int:
    """Size of one checkpoint, all ranks together.

    ZeRO 1 and 2 write the weights in the compute type too; 3 has them in its shards only.
    """
    weights = 0 if config.learner.zero_stage == 3 else DTYPE_BYTES[config.learner.dtype]
    return num_parameters * (_OPTIMIZER_BYTES + weights)


def num_at_once(config: Config, *, num_steps: int, has_evaluation: bool) -> int:
    """Checkpoints that are on disk at the same time at most, the one being written included."""
    kept = config.run.keep_checkpoints + (config.run.keep_best if has_evaluation else 0)
    made = math.ceil(num_steps / config.run.checkpoint_every_steps)
    if has_evaluation and config.run.keep_best:
        made += math.ceil(num_steps / config.run.eval_every_steps)
    return min(kept + 1, made)
