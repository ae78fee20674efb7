"""When things happen: the end of the run, evaluations, checkpoints.

Pure functions of the configuration and of completed steps, so that a resumed
run decides as the undisturbed one.
"""

from __future__ import annotations

import math

from rubric_rl.config.schema import Config
from rubric_rl.controller.state import TrainState


def num_steps(config: Config, num_train_prompts: int) -> int:
    """Optimizer steps of the whole run, the length of the learning rate schedule.

    An upper bound: prompts that replace those of dropped groups are used up too,
    and an epoch with such refills may end some steps earlier. An epoch's last step
    takes what is left.
    """
    per_epoch = math.ceil(num_train_prompts / config.rollout.prompts_per_step)
    total = per_epoch * config.run.epochs
    return total if config.run.max_steps is None else min(total, config.run.max_steps)


def finished(config: Config, state: TrainState) -> bool:
    """Whether no step is left."""
    max_steps = config.run.max_steps
    return state.epoch >= config.run.epochs or (max_steps is not None and state.step >= max_steps)


def evaluation_due(config: Config, state: TrainState) -> bool:
    """Before the first step, every so many steps and after the last; once for each step."""
    if state.last_eval_step == state.step:
        return False
    return state.step % config.run.eval_every_steps == 0 or finished(config, state)


def checkpoint_due(config: Config, state: TrainState) -> bool:
    """Every so many steps and after the last."""
    return state.step % config.run.checkpoint_every_steps == 0 or finished(config, state)
