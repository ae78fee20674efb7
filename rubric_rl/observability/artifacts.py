"""What a run makes that others build on: versions of its rubrics, and its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rubric_rl.rubrics.rubric_set import RubricSet


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricsInForce:
    """The rubrics that a run goes on under after `step`."""

    step: int
    rubrics: RubricSet


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMade:
    """A checkpoint that is complete; older ones may be deleted once this has been announced."""

    step: int
    path: Path
    rubric_version: int
    rubric_hash: str
    metric: str | None
    """What its policy was evaluated by; None: it was not."""
    value: float | None


class Artifacts(Protocol):
    """Is told of each as it is made, in order. Never raises for a service that fails."""

    def rubrics(self, made: RubricsInForce) -> None: ...

    def checkpoint(self, made: CheckpointMade) -> None:
        """Returns once the checkpoint's files may go. Called from any thread."""
        ...


class NoArtifacts:
    """Keeps nothing."""

    def rubrics(self, made: RubricsInForce) -> None:
        pass

    def checkpoint(self, made: CheckpointMade) -> None:
        pass


NO_ARTIFACTS = NoArtifacts()
