"""A checkpoint's content: everything that the next step depends on.

    step_000006/state.json       TrainState: step, data position, rubrics in force, judging window
                learner/         model, optimizer, scheduler, RNG (the learner's own files)
                rubrics.jsonl    the rubrics in force

`run_folder` makes such a folder complete or absent.
"""

from __future__ import annotations

from pathlib import Path

from rubric_rl.controller.interfaces import LearnerGroup
from rubric_rl.controller.run_folder import Checkpoint, RunFolder
from rubric_rl.controller.state import TrainState
from rubric_rl.errors import RunFolderError
from rubric_rl.rubrics.rubric_set import RubricSet

_STATE_FILE = "state.json"
_LEARNER_DIR = "learner"
_RUBRICS_FILE = "rubrics.jsonl"


async def save(
    folder: RunFolder, state: TrainState, learner: LearnerGroup, rubrics: RubricSet, *, keep: int
) -> Checkpoint:
    """Write the checkpoint of `state`; one of the same step that is complete already stands."""

    async def write(directory: Path) -> None:
        (directory / _LEARNER_DIR).mkdir()
        await learner.save(directory / _LEARNER_DIR)
        rubrics.write(directory / _RUBRICS_FILE)
        (directory / _STATE_FILE).write_text(state.to_json(), encoding="utf-8")

    return await folder.commit_checkpoint(state.step, write, keep=keep)


def read(checkpoint: Checkpoint) -> tuple[TrainState, RubricSet]:
    """State and rubrics, which need no worker. Raises DataError on a foreign format."""
    state = TrainState.from_json((checkpoint.path / _STATE_FILE).read_text(encoding="utf-8"))
    return state, RubricSet.read(checkpoint.path / _RUBRICS_FILE)


async def restore_learner(checkpoint: Checkpoint, learner: LearnerGroup) -> None:
    """Load the learner's part. Raises RunFolderError if it is of another step."""
    version = await learner.load(checkpoint.path / _LEARNER_DIR)
    if version != checkpoint.step:
        raise RunFolderError(
            f"checkpoint {str(checkpoint.path)!r} holds a learner of policy version {version}, "
            f"want {checkpoint.step}: the folder was altered, delete it to resume from the one "
            "before"
        )
