"""The run folder: who may use it, and what a resume finds in it.

    run.json             run id and identity: the settings that a resume may not change
    config.yaml          the resolved configuration of the latest start
    environment.json     versions of the latest start
    dropped.jsonl        the prompts left out and why, if there are any
    metrics.jsonl        one object a step
    samples/, criteria/  step_000003.jsonl, eval_000006.jsonl
    checkpoints/         step_000006/: state.json, manifest.json, whatever the learner writes
    logs/
    report.md
    .lock                held by the process that runs here

A run that has neither logged a step nor left a checkpoint has not used the folder:
whoever starts there next starts anew, with the settings of then.

A checkpoint is complete when its folder has its final name, `state.json`, and
`manifest.json`, and every file of the manifest has its size. It is written under
a temporary name and renamed last, so a run killed at any time leaves the previous
one usable.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from rubric_rl.config.schema import Config
from rubric_rl.controller.run_identity import check_identity, identity
from rubric_rl.controller.run_lock import lock_run_folder
from rubric_rl.data.records import Dropped
from rubric_rl.errors import RunFolderError
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.observability.environment import write_environment

logger = logging.getLogger(__name__)

_CHECKPOINT_NAME = re.compile(r"step_(\d{6,})")
_ROWS_NAME = re.compile(r"(?:step|eval)_(\d{6,})\.jsonl")
_TMP_SUFFIX = ".tmp"

# What is spent after a checkpoint still counts, so this file changes in a finished one.
_REPLACEABLE = frozenset({"judge.json"})


class _RunFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["rubric_rl.run/1"] = "rubric_rl.run/1"
    run_id: str
    identity: dict[str, JsonValue]


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["rubric_rl.manifest/1"] = "rubric_rl.manifest/1"
    files: dict[str, int]
    """Path relative to the checkpoint, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint folder and the completed optimizer steps that it holds."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Paths of one run folder, and its checkpoints."""

    root: Path

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def config_yaml(self) -> Path:
        return self.root / "config.yaml"

    @property
    def environment_json(self) -> Path:
        return self.root / "environment.json"

    @property
    def metrics_jsonl(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def criteria(self) -> Path:
        return self.root / "criteria"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def rubrics(self) -> Path:
        return self.root / "rubrics"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def all_checkpoints(self) -> list[Checkpoint]:
        """Complete and damaged ones, oldest first."""
        if not self.checkpoints.is_dir():
            return []
        matches = [(_CHECKPOINT_NAME.fullmatch(p.name), p) for p in self.checkpoints.iterdir()]
        found = [Checkpoint(step=int(m[1]), path=path) for m, path in matches if m]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    async def commit_checkpoint(
        self, step: int, write: Callable[[Path], Awaitable[None]], *, keep: int
    ) -> Checkpoint:
        """Make the checkpoint of `step`, then delete all but the newest `keep`.

        `write` fills an empty folder and must leave `state.json` in it. If the
        checkpoint of this step is already complete, nothing is written.
        """
        checkpoint = Checkpoint(step=step, path=self.checkpoints / f"step_{step:06d}")
        if _damage(checkpoint.path) is not None:
            partial = checkpoint.path.with_name(checkpoint.path.name + _TMP_SUFFIX)
            _remove_tree(partial)
            partial.mkdir(parents=True)
            await write(partial)
            await asyncio.to_thread(_seal, partial, checkpoint.path)
        await asyncio.to_thread(self._prune, step, keep)
        return checkpoint

    def _prune(self, step: int, keep: int) -> None:
        past = [checkpoint for checkpoint in self.all_checkpoints() if checkpoint.step <= step]
        complete = [checkpoint for checkpoint in past if _damage(checkpoint.path) is None]
        for checkpoint in past:
            if checkpoint not in complete[-keep:]:
                try:
                    _remove_checkpoint(checkpoint.path)
                except OSError as err:
                    logger.warning("old checkpoint %s can't be deleted: %s", checkpoint.path, err)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """A run folder that is ready to be written to."""

    folder: RunFolder
    run_id: str
    """The same whenever this run is gone on with."""
    is_continued: bool
    """The folder held this run before: what it logged, with or without a checkpoint."""
    checkpoint: Checkpoint | None
    """Where to go on; None: from the start."""


def open_run(config: Config, config_yaml: str) -> OpenedRun:
    """Create the run folder `config.run.dir`, or find out where to go on in it.

    `config_yaml` is the resolved configuration as it is to be kept. With
    `run.resume=auto`, what was logged after the checkpoint is deleted: those
    steps are done again. From here on no other process can open the folder.

    Raises:
        RunFolderError: another process uses it, it holds another run, a run of another
            configuration or damaged checkpoints only, or it can't be written.
    """
    folder = RunFolder(root=Path(config.run.dir))
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        lock_run_folder(folder.root)
        stored = _stored_run(folder, config)
        checkpoint = None if stored is None else _resume_point(folder)
        if stored is not None:
            _forget_after(folder, -1 if checkpoint is None else checkpoint.step)
        elif folder.run_json.exists():
            _forget_failed_start(folder)
        run_id = secrets.token_hex(6) if stored is None else stored.run_id
        _write_start_files(folder, config_yaml, _RunFile(run_id=run_id, identity=identity(config)))
    except OSError as err:
        raise RunFolderError(
            f"run.dir={config.run.dir!r} can't be used: {err}. Set run.dir to a folder that can be "
            "created and written"
        ) from err
    return OpenedRun(
        folder=folder, run_id=run_id, is_continued=stored is not None, checkpoint=checkpoint
    )


def write_dropped(folder: RunFolder, dropped: Sequence[Dropped]) -> Path | None:
    """List the prompts that are left out, one object a line; None if there are none."""
    path = folder.root / "dropped.jsonl"
    if not dropped:
        path.unlink(missing_ok=True)
        return None
    lines = (json.dumps(asdict(row), ensure_ascii=False) for row in dropped)
    write_text_atomic(path, "".join(f"{line}\n" for line in lines))
    return path


# ----------------------------------------------------------------------------
# May this run use the folder?


def _stored_run(folder: RunFolder, config: Config) -> _RunFile | None:
    """The run that the folder holds, if this one may go on with it; None if it holds none."""
    found = _progress(folder)
    if not found:
        return None
    holds = f"run.dir={config.run.dir!r} holds a run already ({', '.join(found)})"
    if config.run.resume == "never":
        raise RunFolderError(
            f"{holds}: set run.resume=auto to go on with it, or set another run.dir"
        )
    if not folder.run_json.exists():
        raise RunFolderError(
            f"{holds} but no run.json, so it can't be told which one: set another run.dir"
        )
    stored = _read_run_file(folder.run_json)
    check_identity(stored.identity, config)
    return stored


def _progress(folder: RunFolder) -> list[str]:
    """What a run has left here, by name; nothing if none got as far as its first evaluation."""
    metrics = folder.metrics_jsonl
    # The file is made when the workers are ready, empty until something is logged.
    found = [metrics.name] if metrics.exists() and metrics.stat().st_size else []
    if folder.checkpoints.is_dir():
        names = {path.name for path in folder.checkpoints.iterdir()}
        found += sorted(f"checkpoints/{name}" for name in names if not name.endswith(_TMP_SUFFIX))
    return [folder.run_json.name, *found] if found and folder.run_json.exists() else found


def _read_run_file(path: Path) -> _RunFile:
    try:
        return _RunFile.model_validate_json(path.read_bytes())
    except ValidationError as err:
        raise RunFolderError(
            f"{str(path)!r} is damaged or of another version ({err.error_count()} problems, first: "
            f"{err.errors()[0]['msg']}): set another run.dir"
        ) from err


# ----------------------------------------------------------------------------
# Start and resume


def _write_start_files(folder: RunFolder, config_yaml: str, run_file: _RunFile) -> None:
    for directory in (folder.root, folder.logs, folder.samples, folder.checkpoints):
        directory.mkdir(parents=True, exist_ok=True)
    write_environment(folder.environment_json)
    write_text_atomic(folder.config_yaml, config_yaml)
    # Last: a folder with run.json in it has everything else.
    write_text_atomic(folder.run_json, run_file.model_dump_json(indent=2) + "\n")


def _resume_point(folder: RunFolder) -> Checkpoint | None:
    """The newest complete checkpoint; None if none was ever finished.

    Raises:
        RunFolderError: there are checkpoints and all are damaged.
    """
    damaged: list[str] = []
    for checkpoint in reversed(folder.all_checkpoints()):
        problem = _damage(checkpoint.path)
        if problem is None:
            return checkpoint
        damaged.append(f"{checkpoint.path.name}: {problem}")
        logger.warning("skipping damaged checkpoint %s: %s", checkpoint.path, problem)
    if damaged:
        raise RunFolderError(
            f"no checkpoint in {str(folder.checkpoints)!r} can be resumed ({'; '.join(damaged)}): "
            "delete them to start this run again from step 0, or set another run.dir"
        )
    return None


def _forget_after(folder: RunFolder, step: int) -> None:
    """Delete what was logged after `step`, and what was being written when the run ended."""
    for directory in (folder.checkpoints, folder.samples, folder.criteria):
        for path in directory.glob(f"*{_TMP_SUFFIX}"):
            _remove_tree(path)
    for path in (*folder.samples.glob("*.jsonl"), *folder.criteria.glob("*.jsonl")):
        match = _ROWS_NAME.fullmatch(path.name)
        if match and int(match[1]) > step:
            path.unlink()
    if folder.metrics_jsonl.exists():
        _truncate_metrics(folder.metrics_jsonl, step)


def _forget_failed_start(folder: RunFolder) -> None:
    """Delete what a run left that ended before it logged anything."""
    _forget_after(folder, -1)
    # Its history begins with the rubrics of that start.
    _remove_tree(folder.rubrics)


def _truncate_metrics(path: Path, step: int) -> None:
    lines = path.read_bytes().split(b"\n")
    # What follows the last line end was half written: empty unless the run was killed.
    kept = [line for line in lines[:-1] if _step_of(line, path) <= step]
    write_text_atomic(path, "".join(line.decode() + "\n" for line in kept))


def _step_of(line: bytes, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as err:
        raise RunFolderError(
            f"{str(path)!r} has a line that is not a step's metrics ({line[:60]!r}): delete the "
            "line to resume"
        ) from err


# ----------------------------------------------------------------------------
# Checkpoint folders


def _damage(path: Path) -> str | None:
    """Why a checkpoint folder is not complete; None if it is."""
    if not (path / "state.json").is_file():
        return "state.json is missing"
    try:
        manifest = _Manifest.model_validate_json((path / "manifest.json").read_bytes())
    except FileNotFoundError:
        return "manifest.json is missing"
    except ValidationError as err:
        return f"manifest.json can't be read: {err.errors()[0]['msg']}"
    for name, size in manifest.files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
    return None


def _seal(partial: Path, final: Path) -> None:
    """Add the manifest, flush everything to disk, rename into place."""
    assert (partial / "state.json").is_file(), "a checkpoint needs state.json"
    files = sorted(p for p in partial.rglob("*") if p.is_file() and p.name not in _REPLACEABLE)
    manifest = _Manifest(files={f.relative_to(partial).as_posix(): f.stat().st_size for f in files})
    (partial / "manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    for path in (*partial.rglob("*"), partial):
        _sync_to_disk(path)
    _remove_checkpoint(final)  # damaged, or it would not be written again
    partial.rename(final)
    _sync_to_disk(final.parent)


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_checkpoint(path: Path) -> None:
    """Delete under a temporary name, so that a kill halfway leaves no damaged checkpoint."""
    if path.exists():
        doomed = path.with_name(f"{path.name}.old{_TMP_SUFFIX}")
        _remove_tree(doomed)
        path.rename(doomed)
        _remove_tree(doomed)


def _remove_tree(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
