"""The end of the run, evaluations and checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rubric_rl.controller.schedule import checkpoint_due, evaluation_due, finished, num_steps
from rubric_rl.controller.state import TrainState

from .fakes import make_config

START = TrainState(rubric_version=1, rubric_hash="abc")


@pytest.mark.parametrize(
    ("num_prompts", "prompts_per_step", "epochs", "max_steps", "want"),
    [
        (48, 4, 1, None, 12),
        (49, 4, 1, None, 13),
        (5000, 96, 2, None, 106),  # the paper's count: ceil(5000 / 96) = 53 an epoch
        (3, 4, 3, None, 3),
        (48, 4, 1, 5, 5),
        (48, 4, 1, 50, 12),
    ],
)
def test_the_number_of_steps(
    num_prompts: int, prompts_per_step: int, epochs: int, max_steps: int | None, want: int
) -> None:
    config = make_config(
        "run",
        rollout__prompts_per_step=prompts_per_step,
        run__epochs=epochs,
        run__max_steps=max_steps,
    )
    assert num_steps(config, num_prompts) == want


def test_a_run_is_finished_by_its_epochs_or_its_steps() -> None:
    config = make_config("run", run__epochs=2, run__max_steps=10)
    assert not finished(config, replace(START, step=9, epoch=1))
    assert finished(config, replace(START, step=10, epoch=1))
    assert finished(config, replace(START, step=6, epoch=2))


def test_evaluations_and_checkpoints_are_due_every_n_steps_and_at_the_end() -> None:
    config = make_config(
        "run", run__eval_every_steps=3, run__checkpoint_every_steps=2, run__max_steps=7
    )
    states = [replace(START, step=step) for step in range(8)]
    assert [s.step for s in states if evaluation_due(config, s)] == [0, 3, 6, 7]
    assert [s.step for s in states[1:] if checkpoint_due(config, s)] == [2, 4, 6, 7]


def test_a_step_is_evaluated_once() -> None:
    config = make_config("run", run__eval_every_steps=3)
    assert evaluation_due(config, replace(START, step=3, last_eval_step=0))
    assert not evaluation_due(config, replace(START, step=3, last_eval_step=3))
