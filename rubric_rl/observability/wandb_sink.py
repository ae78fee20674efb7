"""The W&B sink: the same metrics, and tables of samples, criteria and changes of rubrics.

`artifacts` takes rubrics and checkpoints.

Training never depends on W&B. Without credentials the run is recorded offline
in the run folder, and whatever goes wrong after the start switches this sink
off, once and visibly.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rubric_rl.config.schema import Config
from rubric_rl.errors import ConfigError
from rubric_rl.observability.artifacts import NO_ARTIFACTS, Artifacts
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.observability.metrics import METRICS, check_names
from rubric_rl.observability.records import StepRecord
from rubric_rl.observability.wandb_artifacts import WandbArtifacts
from rubric_rl.observability.wandb_tables import tables_of

if TYPE_CHECKING:
    import wandb  # takes more than a second, so only a run that uses it imports it

logger = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

# Long enough for a slow network, short enough that a wrong server is noticed soon.
_START_TIMEOUT_S = 60.0
# A network that is gone must not hold up the end: what is not uploaded stays in the run folder.
_FINISH_TIMEOUT_S = 120.0
# Gigabytes of a checkpoint that somebody asked to upload.
_UPLOAD_TIMEOUT_S = 1800.0

T = TypeVar("T")


class WandbSink:
    """One W&B run.

    `notice` says in one line where the run is recorded. With the same `run_id` a
    resumed run goes on in the same W&B run. W&B can't take back the steps that it
    repeats after its checkpoint, so they aren't told again, unless the process that
    told them was killed: W&B may then have lost them, and they can be there twice.
    """

    notice: str

    def __init__(self, config: Config, run_dir: Path, run_id: str, resumed_at: int | None) -> None:
        """`resumed_at`: the checkpoint's step, -1 without one; None: a new run.

        Raises ConfigError if W&B can't start in a mode that was asked for by name.
        """
        self._table_rows = config.logging.sample_table_rows
        started = _start(
            config, _Identity(run_dir=run_dir, run_id=run_id, resume=resumed_at is not None)
        )
        self._run = started.run
        self._told = _Told(run_dir / "wandb" / f"{run_id}.told", resumed_at)
        self._num_failures = int(started.failed)
        self._artifacts = (
            None
            if started.run is None
            else WandbArtifacts(started.run, run_id, config.logging.wandb)
        )
        self.notice = started.notice
        logger.info(self.notice)

    @property
    def is_active(self) -> bool:
        """False when disabled by the configuration or after a failure."""
        return self._run is not None

    @property
    def num_failures(self) -> int:
        """Calls to W&B that failed: at most one at the start, one afterwards, one of artifacts."""
        return self._num_failures + (0 if self._artifacts is None else self._artifacts.num_failures)

    @property
    def artifacts(self) -> Artifacts:
        """Takes what the run makes; nothing when disabled."""
        return self._artifacts or NO_ARTIFACTS

    def log(self, record: StepRecord) -> None:
        """Raises ValueError on an unlisted metric name, and nothing else."""
        check_names(record.metrics)
        run = self._run
        if run is not None and self._told.admit(record.step):
            self._guard("log", lambda: run.log(self._payload(record)))

    def close(self) -> None:
        run, self._run = self._run, None
        if self._artifacts is not None:
            self._artifacts.close()
        if run is not None:
            self._guard("finish", lambda: self._end(run))

    def _end(self, run: wandb.Run) -> None:
        _finish(run)
        self._told.save()

    def _payload(self, record: StepRecord) -> dict[str, Any]:
        import wandb

        payload: dict[str, Any] = {"step": record.step, **record.metrics}
        for table in tables_of(record, self._table_rows):
            payload[table.name] = wandb.Table(columns=[*table.columns], data=[*table.rows])
        return payload

    def _guard(self, action: str, call: Callable[[], object]) -> None:
        result = _attempt(call)
        if isinstance(result, Exception):
            self._run = None
            self._num_failures += 1
            logger.warning(
                "W&B failed (%s) and is switched off: %s. The run goes on",
                action,
                _words(result),
            )


def _attempt(call: Callable[[], T]) -> T | Exception:
    """The boundary to W&B: whatever it raises comes back as a value."""
    try:
        return call()
    except Exception as err:
        return err


def _words(err: Exception) -> str:
    return f"{type(err).__name__}: {err}"


class _Told:
    """How far W&B has a run for certain, in a file for whoever resumes it.

    A place is a step and the how many-th record of it: an evaluation or a refinement can
    follow the step's own. W&B writes late, so a process that is killed saves nothing.
    """

    def __init__(self, path: Path, resumed_at: int | None) -> None:
        self._path, self._resumed_at = path, resumed_at
        self._before = _NOTHING if resumed_at is None else _read_place(path)
        self._now = _NOTHING

    def admit(self, step: int) -> bool:
        """Count the next record; False if W&B has it from before the resume."""
        last, number = self._now
        self._now = (step, number + 1 if step == last else 1)
        is_repeated = self._resumed_at is not None and step > self._resumed_at
        return not (is_repeated and self._now <= self._before)

    def save(self) -> None:
        """All that was told has arrived."""
        step, number = max(self._before, self._now)
        self._path.parent.mkdir(exist_ok=True)
        write_text_atomic(self._path, f"{step} {number}")


_NOTHING = (-1, 0)


def _read_place(path: Path) -> tuple[int, int]:
    """`_NOTHING` of a file that isn't there or is damaged: at worst steps are told twice."""
    try:
        step, number = path.read_text(encoding="utf-8").split()
        return int(step), int(number)
    except (OSError, ValueError):
        return _NOTHING


# ----------------------------------------------------------------------------
# Starting


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    run_dir: Path
    run_id: str
    resume: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    run: wandb.Run | None
    notice: str
    failed: bool


def _start(config: Config, identity: _Identity) -> _Started:
    mode, why = resolve_mode(config)
    if mode == "disabled":
        return _Started(run=None, notice=f"W&B: disabled ({why})", failed=False)
    run = _attempt(lambda: _init(config, identity, mode))
    if not isinstance(run, Exception):
        return _Started(run=run, notice=_notice(mode, why, run), failed=False)
    if config.logging.wandb.mode != "auto":
        raise ConfigError(
            f"W&B can't start with logging.wandb.mode={config.logging.wandb.mode!r}: "
            f"{_words(run)}. Log in (wandb login), or set logging.wandb.mode to auto, offline "
            "or disabled"
        ) from run
    return _fall_back(config, identity, run)


def _fall_back(config: Config, identity: _Identity, err: Exception) -> _Started:
    """Record offline after a failed start: `auto` never stops a run."""
    import wandb

    logger.warning("W&B can't start: %s. Recording offline instead", _words(err))
    # The failed start still holds the run id in W&B's service process.
    _attempt(wandb.teardown)
    run = _attempt(lambda: _init(config, identity, "offline"))
    if isinstance(run, Exception):
        logger.warning("W&B can't record offline either: %s", _words(run))
        return _Started(run=None, notice="W&B: disabled (it can't start)", failed=True)
    return _Started(run=run, notice=_notice("offline", "no connection", run), failed=True)


def resolve_mode(config: Config) -> tuple[Mode, str]:
    """The mode, and why it is that. W&B's own WANDB_MODE decides for `auto` when it is set."""
    mode = config.logging.wandb.mode
    if mode != "auto":
        return mode, f"logging.wandb.mode={mode}"
    match os.environ.get("WANDB_MODE"):
        case "online" | "offline" | "disabled" as mode:
            return mode, f"WANDB_MODE={mode}"
        case _:
            login = _attempt(has_login)
            return ("online", "logged in") if login is True else ("offline", "no API key found")


def has_login() -> bool:
    """Whether W&B finds credentials in the environment, its settings or netrc; asks nobody."""
    import wandb

    # Without this W&B reports on the terminal which credentials it has read.
    wandb.setup(wandb.Settings(silent=True, console="off"))
    return wandb.login(prompt=False, verify=False)


def _init(config: Config, identity: _Identity, mode: Mode) -> wandb.Run:
    import wandb

    # Everything that a run writes is in its folder, files of artifacts that wait for upload too.
    os.environ.setdefault("WANDB_DATA_DIR", str(identity.run_dir.resolve() / "wandb"))
    is_upload = config.logging.wandb.checkpoint_artifacts == "upload"
    run = wandb.init(
        project=config.logging.wandb.project,
        entity=config.logging.wandb.entity,
        name=config.run.name,
        id=identity.run_id,
        resume="allow" if identity.resume else None,
        dir=identity.run_dir,
        mode=mode,
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_START_TIMEOUT_S,
            finish_timeout=_UPLOAD_TIMEOUT_S if is_upload else _FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
        ),
    )
    # Steps are W&B's x axis: its own counter is one of calls, of which a step can have several.
    run.define_metric("step", hidden=True)
    for spec in METRICS:
        run.define_metric(spec.name, step_metric="step")
    return run


def _finish(run: wandb.Run) -> None:
    """Raises TimeoutError if W&B doesn't take the rest in time."""
    try:
        run.finish()
    except TimeoutError as err:
        raise TimeoutError(
            f"{err} Upload the rest with: wandb sync {Path(run.settings.sync_dir)}"
        ) from err


def _notice(mode: Mode, why: str, run: wandb.Run) -> str:
    if mode == "online":
        return f"W&B: {run.url} ({why})"
    return f"W&B: offline ({why}); upload with: wandb sync {Path(run.settings.sync_dir)}"
