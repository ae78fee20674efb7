"""What the controller needs of the outside world, as Protocols.

The Ray implementations live in `rubric_rl.runtime`; tests use in-memory fakes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from rubric_rl.types import (
    Judgement,
    JudgeRequest,
    RolloutRequest,
    Sample,
    SyncReport,
    TrainBatch,
    UpdateResult,
)


class RolloutPool(Protocol):
    """Generates completions with the weights that were published last."""

    def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        """Yield each sample as soon as it is finished, in any order."""
        ...

    async def release_memory(self) -> None:
        """Make room for the learner until the next publish; nothing to do when apart."""
        ...


class JudgePool(Protocol):
    """Judges samples. A failure is a verdict UNKNOWN with its cause, never an exception."""

    async def judge(self, request: JudgeRequest) -> Judgement: ...


class LearnerGroup(Protocol):
    """All learner ranks together."""

    async def update(self, batch: TrainBatch) -> UpdateResult:
        """Take one optimizer step. Raises LearnerDivergedError without stepping."""
        ...

    async def save(self, directory: Path) -> None:
        """Write model, optimizer, scheduler and RNG state into an existing directory."""
        ...

    async def load(self, directory: Path) -> int:
        """Restore what `save` wrote and return its policy version."""
        ...

    async def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face model directory."""
        ...


class WeightSync(Protocol):
    """Publishes the learner's weights to every rollout engine."""

    async def publish(self, policy_version: int) -> SyncReport:
        """Return once every engine serves `policy_version`. Raises WeightSyncError."""
        ...
