"""A checkpoint's content: everything that the next step depends on.

    step_000006/state.json       TrainState: step, data position, rubrics in force, judging window
                learner/         model, optimizer, scheduler, RNG (the learner's own files)
                rubrics.jsonl    the rubrics in force
                candidates.jsonl the best answers since the last refinement, if rubrics are refined
                judge.json       limits and spending of the judges, in their own words; absent
                                 if they have none and in checkpoints of older versions

`run_folder` makes such a folder complete or absent.
"""

from __future__ import annotations

from pathlib import Path

from rubric_rl.controller.archive import CandidateArchive
from rubric_rl.controller.interfaces import JudgePool, LearnerGroup
from rubric_rl.controller.run_folder import Checkpoint, RunFolder
from rubric_rl.controller.state import TrainState
from rubric_rl.errors import RunFolderError
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.rubrics.rubric_set import RubricSet

_STATE_FILE = "state.json"
_LEARNER_DIR = "learner"
_RUBRICS_FILE = "rubrics.jsonl"
_JUDGE_FILE = "judge.json"
_CANDIDATES_FILE = "candidates.jsonl"


async def save(
    folder: RunFolder,
    state: TrainState,
    learner: LearnerGroup,
    rubrics: RubricSet,
    *,
    num_learner_ranks: int,
    limiter_state: str,
    keep: int,
    archive: CandidateArchive | None = None,
) -> Checkpoint:
    """Write the checkpoint of `state`; one of the same step that is complete already stands.

    Only `limiter_state`, that of `JudgePoolStatus`, is brought up to date in it: money
    that was spent on a step which was then given up is spent.

    Raises:
        RunFolderError: a rank's files are not there, so other nodes write elsewhere.
    """

    async def write(directory: Path) -> None:
        (directory / _LEARNER_DIR).mkdir()
        await learner.save(directory / _LEARNER_DIR)
        _require_every_rank(directory / _LEARNER_DIR, num_learner_ranks)
        rubrics.write(directory / _RUBRICS_FILE)
        if archive is not None:
            archive.write(directory / _CANDIDATES_FILE)
        _write_limiter_state(directory, limiter_state)
        (directory / _STATE_FILE).write_text(state.to_json(), encoding="utf-8")

    checkpoint = await folder.commit_checkpoint(state.step, write, keep=keep)
    _write_limiter_state(checkpoint.path, limiter_state)
    return checkpoint


def _require_every_rank(directory: Path, num_ranks: int) -> None:
    """Each rank writes a shard and its RNG state; of the two only the name of this is ours."""
    missing = [i for i in range(num_ranks) if not (directory / f"rng_rank_{i}.pt").is_file()]
    if missing:
        ranks = ", ".join(str(i) for i in missing)
        raise RunFolderError(
            f"the checkpoint lacks the files of learner ranks {ranks} of {num_ranks} in "
            f"{str(directory)!r}: they were written on other nodes. Set run.dir to a folder on a "
            "file system that all nodes share"
        )


def _write_limiter_state(directory: Path, limiter_state: str) -> None:
    path = directory / _JUDGE_FILE
    if limiter_state and not (path.exists() and path.read_text("utf-8") == limiter_state):
        write_text_atomic(path, limiter_state)


def read(checkpoint: Checkpoint) -> tuple[TrainState, RubricSet]:
    """State and rubrics, which need no worker. Raises DataError on a foreign format."""
    state = TrainState.from_json((checkpoint.path / _STATE_FILE).read_text(encoding="utf-8"))
    return state, RubricSet.read(checkpoint.path / _RUBRICS_FILE)


def read_archive(checkpoint: Checkpoint, per_prompt: int) -> CandidateArchive:
    """The answers that the checkpoint remembers; none in checkpoints of older versions."""
    return CandidateArchive.read(checkpoint.path / _CANDIDATES_FILE, per_prompt)


async def restore_learner(checkpoint: Checkpoint, learner: LearnerGroup) -> None:
    """Load the learner's part. Raises RunFolderError if it is of another step."""
    version = await learner.load(checkpoint.path / _LEARNER_DIR)
    if version != checkpoint.step:
        raise RunFolderError(
            f"checkpoint {str(checkpoint.path)!r} holds a learner of policy version {version}, "
            f"want {checkpoint.step}: the folder was altered, delete it to resume from the one "
            "before"
        )


async def restore_judges(checkpoint: Checkpoint, judges: JudgePool) -> None:
    """Give the judges back their limits and what is spent, where the checkpoint has it.

    Raises:
        RunFolderError: another model judges now than when the checkpoint was made.
    """
    path = checkpoint.path / _JUDGE_FILE
    if path.exists():
        await judges.restore(path.read_text(encoding="utf-8"))
