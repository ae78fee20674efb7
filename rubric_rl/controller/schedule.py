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
    at_end = max_steps is not None and state.step >= max_steps
    return state.epoch >= config.run.epochs or at_end or ends_by_gold(config, state)


def ends_by_gold(config: Config, state: TrainState) -> bool:
    """Whether gold declines, and the run is to end there."""
    gold = config.gold
    return (
        gold.stop_after_decline
        and state.gold is not None
        and state.gold.num_clear >= gold.stop_evaluations
    )


def evaluation_due(config: Config, state: TrainState) -> bool:
    """Before the first step, every so many steps and after the last; once for each step."""
    if state.last_eval_step == state.step:
        return False
    return state.step % config.run.eval_every_steps == 0 or finished(config, state)


def refinement_due(
    config: Config, before: TrainState, after: TrainState, top_tie_frac: float
) -> bool:
    """After a step: at an epoch's end, every so many steps, or when too many groups are tied.

    Not after the last step: nobody would train on those rubrics. `top_tie_frac` is the
    share of the step's groups with more than one best sample.
    """
    refinement = config.refinement
    if not refinement.enabled or finished(config, after) or after.refined_at == after.step:
        return False
    epochs, steps = refinement.every_epochs, refinement.every_steps
    at_epoch = epochs is not None and after.epoch > before.epoch and after.epoch % epochs == 0
    at_step = steps is not None and after.step % steps == 0
    tied = refinement.top_tie_frac is not None and top_tie_frac > refinement.top_tie_frac
    return at_epoch or at_step or tied


def checkpoint_due(config: Config, state: TrainState) -> bool:
    """Every so many steps, after the last, and when no evaluated policy was better.

    Not for step 0: its policy is the model that the run began with.
    """
    is_best = config.run.keep_best > 0 and state.is_best and state.step > 0
    at_step = state.step % config.run.checkpoint_every_steps == 0
    return at_step or is_best or finished(config, state)
