"""Rubrics and checkpoints as W&B artifacts.

    rubrics-RUN_ID      rubrics.jsonl; alias version-N
    checkpoint-RUN_ID   all files, or manifest.json (sizes and SHA-256) and references to the
                        files where they are; alias step-N

A version of the rubrics names the one before it in its metadata. Online the run also uses
that one before it logs the next, so W&B's lineage graph leads from version to version through
the run. W&B can't do that offline.

Some of these calls wait for the network, so a thread of its own makes them. What goes wrong
switches artifacts off, once and visibly; metrics go on.
"""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubric_rl.config.schema import WandbConfig
from rubric_rl.observability.artifacts import CheckpointMade, RubricsInForce
from rubric_rl.rubrics.rubric_set import RubricSet

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

_COMMIT_TIMEOUT_S = 60
"""Longest wait for W&B to take a version of the rubrics, which are small."""
_CLOSE_TIMEOUT_S = 90.0
"""Longest wait at the end for calls on their way."""
_MANIFEST = "manifest.json"


class WandbArtifacts:
    """The artifacts of one W&B run. Raises nothing."""

    def __init__(self, run: wandb.Run, run_id: str, config: WandbConfig) -> None:
        self.num_failures = 0
        """Calls that failed: at most one."""
        self._run = run
        self._run_id = run_id
        self._config = config
        self._previous: tuple[RubricSet, wandb.Artifact] | None = None
        self._checkpoint_step: int | None = None
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        # Daemonic: a call that hangs must not hold up the end of the process.
        self._thread = threading.Thread(target=self._work, name="wandb-artifacts", daemon=True)
        self._thread.start()

    def rubrics(self, made: RubricsInForce) -> None:
        """Log the rubrics as a version, derived from the one before."""
        if self._config.rubric_artifacts:
            self._jobs.put(lambda: self._log_rubrics(made))

    def checkpoint(self, made: CheckpointMade) -> None:
        """Log a checkpoint, once for each step; to be uploaded, it is copied before this returns.

        Its policy may be evaluated after that, which the artifact doesn't show.
        """
        kind = self._config.checkpoint_artifacts
        if kind == "none" or self.num_failures or made.step == self._checkpoint_step:
            return
        self._checkpoint_step = made.step
        self._guard(lambda: self._begin_checkpoint(made, is_upload=kind == "upload"))

    def close(self) -> None:
        """Wait for what is on its way, a bounded time."""
        self._jobs.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._fail(f"no answer in {_CLOSE_TIMEOUT_S:.0f} s")

    # ------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self.num_failures:
                self._guard(job)

    def _guard(self, job: Callable[[], object]) -> None:
        """The boundary to W&B's artifacts: whatever it raises ends them."""
        try:
            job()
        except Exception as err:
            self._fail(f"{type(err).__name__}: {err}")

    def _fail(self, why: str) -> None:
        if self.num_failures:
            return
        self.num_failures = 1
        logger.warning("W&B artifacts failed and are switched off: %s. The run goes on", why)

    def _log_rubrics(self, made: RubricsInForce) -> None:
        rubrics = made.rubrics
        parent, artifact_before = self._previous or (None, None)
        if parent is not None and parent.version == rubrics.version:
            return
        artifact = rubrics_artifact(self._run_id, made, parent)
        if artifact_before is not None and not self._run.offline:
            self._run.use_artifact(artifact_before)
        logged = self._run.log_artifact(artifact, aliases=[f"version-{rubrics.version}"])
        if not self._run.offline:
            logged.wait(_COMMIT_TIMEOUT_S)
        self._previous = rubrics, logged

    def _begin_checkpoint(self, made: CheckpointMade, *, is_upload: bool) -> None:
        artifact = checkpoint_artifact(self._run_id, made, is_upload=is_upload)
        aliases = [f"step-{made.step}"]
        self._jobs.put(lambda: self._run.log_artifact(artifact, aliases=aliases))


def rubrics_artifact(run_id: str, made: RubricsInForce, parent: RubricSet | None) -> wandb.Artifact:
    """Its content depends on nothing but the rubrics: logged again it is the same version."""
    import wandb

    rubrics = made.rubrics
    metadata: dict[str, Any] = {
        "run_id": run_id,
        "step": made.step,
        "version": rubrics.version,
        "content_hash": rubrics.content_hash,
        "num_rubrics": len(rubrics.rubrics),
        "num_criteria": sum(len(rubric.criteria) for rubric in rubrics.rubrics),
    }
    if parent is not None:
        metadata |= {"parent_version": parent.version, "parent_content_hash": parent.content_hash}
    artifact = wandb.Artifact(f"rubrics-{run_id}", type="rubrics", metadata=metadata)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rubrics.jsonl"
        rubrics.write(path)
        artifact.add_file(str(path), name=path.name, skip_cache=True)
    return artifact


def checkpoint_artifact(run_id: str, made: CheckpointMade, *, is_upload: bool) -> wandb.Artifact:
    """The checkpoint's files, or references to them, which say nothing once it is deleted."""
    import wandb

    metadata: dict[str, Any] = {
        "run_id": run_id,
        "step": made.step,
        "rubric_version": made.rubric_version,
        "rubric_content_hash": made.rubric_hash,
        "path": str(made.path.resolve()),
    }
    if made.metric is not None:
        metadata[made.metric] = made.value
    artifact = wandb.Artifact(f"checkpoint-{run_id}", type="checkpoint", metadata=metadata)
    if is_upload:
        for file in sorted(path for path in made.path.rglob("*") if path.is_file()):
            name = file.relative_to(made.path).as_posix()
            artifact.add_file(str(file), name=name, skip_cache=True)
        return artifact
    artifact.add_file(str(made.path / _MANIFEST), name=_MANIFEST, skip_cache=True)
    # W&B's own checksums would read it all again; the manifest has them.
    artifact.add_reference(made.path.resolve().as_uri(), name="files", checksum=False)
    return artifact
