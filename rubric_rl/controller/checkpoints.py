"""A checkpoint's content: everything that the next step depends on.

    step_000006/state.json       TrainState: step, data position, rubrics in force, judging window
                learner/         model, optimizer, scheduler, RNG (the learner's own files)
                rubrics.jsonl    the rubrics in force
                candidates.jsonl the best answers since the last refinement, if rubrics are refined
                judge.json       limits and spending of the judges, in their own words; absent
                                 if they have none and in checkpoints of older versions
                evaluation.json  how the policy of this step did, if it was evaluated

`run_folder` makes such a folder complete or absent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.config.schema import Config
from rubric_rl.controller.archive import CandidateArchive
from rubric_rl.controller.best_checkpoints import Scored, write_score
from rubric_rl.controller.checkpoint_files import JUDGE_FILE, STATE_FILE, Checkpoint
from rubric_rl.controller.interfaces import JudgePool, LearnerGroup
from rubric_rl.controller.run_folder import OpenedRun, RunFolder, go_back
from rubric_rl.controller.state import TrainState
from rubric_rl.errors import DamagedCheckpointError, RunFolderError
from rubric_rl.observability.artifacts import CheckpointMade
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.observability.checksums import FileDigest
from rubric_rl.rubrics.rubric_set import RubricSet

LEARNER_DIR = "learner"
_RUBRICS_FILE = "rubrics.jsonl"
_CANDIDATES_FILE = "candidates.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointContent:
    """What a checkpoint holds beside the learner's part."""

    state: TrainState
    rubrics: RubricSet
    limiter_state: str
    """That of `JudgePoolStatus`."""
    archive: CandidateArchive | None
    """None: rubrics are not refined."""

    @property
    def score(self) -> Scored | None:
        """How the policy of this very step did, if it was evaluated and could be scored."""
        state = self.state
        if state.last_eval_step != state.step or state.last_eval_value is None:
            return None
        assert state.eval_metric is not None
        return Scored(metric=state.eval_metric, value=state.last_eval_value)


async def save(
    folder: RunFolder,
    content: CheckpointContent,
    learner: LearnerGroup,
    *,
    num_learner_ranks: int,
    in_background: bool,
    copied: asyncio.Future[None],
) -> Checkpoint:
    """Write the checkpoint of `content`; one of the same step that is complete already stands.

    Only the judges' state and the evaluation are brought up to date in it: money that was
    spent on a step which was then given up is spent, and an evaluation can come later than
    the checkpoint of its step.

    Args:
        in_background: the learner copies its state first, so that it can go on.
        copied: set once it may go on.

    Raises:
        RunFolderError: files can't be written, or those of a rank are not there, so other
            nodes write elsewhere.
    """

    async def write(directory: Path) -> dict[str, FileDigest]:
        (directory / LEARNER_DIR).mkdir()
        # Before anything is waited for: the archive changes when the run goes on.
        content.rubrics.write(directory / _RUBRICS_FILE)
        if content.archive is not None:
            content.archive.write(directory / _CANDIDATES_FILE)
        (directory / STATE_FILE).write_text(content.state.to_json(), encoding="utf-8")
        await learner.save(directory / LEARNER_DIR, in_background=in_background)
        copied.set_result(None)
        found = await learner.written()
        _require_every_rank(directory / LEARNER_DIR, num_learner_ranks)
        _bring_up_to_date(directory, content)
        return {f"{LEARNER_DIR}/{name}": digest for name, digest in found.items()}

    try:
        checkpoint = await folder.commit_checkpoint(content.state.step, write)
        _bring_up_to_date(checkpoint.path, content)
    except OSError as err:
        raise RunFolderError(
            f"the checkpoint of step {content.state.step} can't be written to "
            f"{str(folder.checkpoints)!r}: {err}. The one before it stands: make room or set "
            "run.keep_checkpoints lower, then go on with run.resume=auto"
        ) from err
    return checkpoint


def made(checkpoint: Checkpoint, content: CheckpointContent) -> CheckpointMade:
    """A complete checkpoint as it is announced."""
    score = content.score
    return CheckpointMade(
        step=content.state.step,
        path=checkpoint.path,
        rubric_version=content.rubrics.version,
        rubric_hash=content.rubrics.content_hash,
        metric=None if score is None else score.metric,
        value=None if score is None else score.value,
    )


def _bring_up_to_date(directory: Path, content: CheckpointContent) -> None:
    """What may change in a complete checkpoint."""
    path, limiter_state = directory / JUDGE_FILE, content.limiter_state
    if limiter_state and not (path.exists() and path.read_text("utf-8") == limiter_state):
        write_text_atomic(path, limiter_state)
    if content.score is not None:
        write_score(directory, content.score)


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


def read(checkpoint: Checkpoint) -> tuple[TrainState, RubricSet]:
    """State and rubrics, which need no worker. Raises DataError on a foreign format."""
    state = TrainState.from_json((checkpoint.path / STATE_FILE).read_text(encoding="utf-8"))
    return state, RubricSet.read(checkpoint.path / _RUBRICS_FILE)


def read_archive(checkpoint: Checkpoint, per_prompt: int) -> CandidateArchive:
    """The answers that the checkpoint remembers; none in checkpoints of older versions."""
    return CandidateArchive.read(checkpoint.path / _CANDIDATES_FILE, per_prompt)


async def restore_newest(
    opened: OpenedRun, config: Config, learner: LearnerGroup, *, warn: Callable[[str], None]
) -> OpenedRun:
    """`opened` at the newest checkpoint whose learner can be loaded, and is.

    Raises:
        RunFolderError: none can be; or one is whole, but of another model or ZeRO stage.
    """
    while opened.checkpoint is not None:
        try:
            await restore_learner(opened.checkpoint, learner)
        except DamagedCheckpointError as err:
            warn(f"{opened.checkpoint.path} is not used: {err}")
            opened = go_back(opened, config, str(err))
        else:
            break
    return opened


async def restore_learner(checkpoint: Checkpoint, learner: LearnerGroup) -> None:
    """Load the learner's part.

    Raises:
        DamagedCheckpointError: its files can't be read, or are of another step.
        RunFolderError: it is whole, but of another model or ZeRO stage.
    """
    version = await learner.load(checkpoint.path / LEARNER_DIR)
    if version != checkpoint.step:
        raise DamagedCheckpointError(
            f"it holds a learner of policy version {version}, want {checkpoint.step}: the folder "
            "was altered"
        )


async def restore_judges(checkpoint: Checkpoint, judges: JudgePool) -> None:
    """Give the judges back their limits and what is spent, where the checkpoint has it.

    Raises:
        RunFolderError: another model judges now than when the checkpoint was made.
    """
    path = checkpoint.path / JUDGE_FILE
    if path.exists():
        await judges.restore(path.read_text(encoding="utf-8"))
