"""Graded answers on disk: JSONL, one answer with its verdicts a line.

    {"format": "rubric_rl.graded/1", "row_id": "a7", "prompt_id": "h001",
     "content_hash": "...", "answer_hash": "...", "reward": 0.75, "coverage": 1.0, "verdicts": [
        {"cid": "c1", "text": "Names a dose.", "verdict": "met", "reason": "...", ...}],
     "judge_id": "gpt-4.1-mini", "mode": "all", "usage": {...}, ...}

Lines stand in the order in which answers were finished; see `row_file`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from rubric_rl.judging.row_file import RowFile, RowFormat
from rubric_rl.types import FailureCause, JudgeUsage, VerdictValue

FORMAT = "rubric_rl.graded/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedVerdict:
    """One criterion with its verdict."""

    cid: str
    text: str
    verdict: VerdictValue
    reason: str
    cause: FailureCause | None
    """Set exactly when the verdict is UNKNOWN."""
    probability: float | None = None
    """The judge's, that the criterion is met; None where it isn't told."""
    votes: tuple[VerdictValue, ...] = ()
    cached: bool = False
    by_rule: bool = False
    """Executed, not judged."""
    grade: float | None = None
    """Of the answer as a whole; set exactly when the verdict is GRADED."""

    def __post_init__(self) -> None:
        if (self.verdict is VerdictValue.UNKNOWN) != (self.cause is not None):
            raise ValueError("cause must be set exactly when the verdict is unknown")
        if (self.verdict is VerdictValue.GRADED) != (self.grade is not None):
            raise ValueError("grade must be set exactly when the verdict is graded")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedRow:
    """One answer with its verdicts, in the order of the rubric's criteria."""

    row_id: str
    prompt_id: str
    content_hash: str
    """Of all that the verdicts and the reward depend on; see `grading.content_hash`."""
    answer_hash: str
    """Of prompt and response alone: equal in the gradings of one answer by several judges."""
    reward: float | None
    """None: the answer is unscored."""
    coverage: float
    gated_from: float | None
    verdicts: tuple[GradedVerdict, ...]
    rubric_id: str
    rubric_version: int
    judge_id: str
    template_hash: str
    mode: str
    usage: JudgeUsage
    latency_s: float

    @property
    def num_unknown(self) -> int:
        return sum(verdict.cause is not None for verdict in self.verdicts)


GRADED: RowFormat[GradedRow] = RowFormat(
    name=FORMAT,
    adapter=TypeAdapter(GradedRow),
    noun="graded answer",
    writer="rubric-rl judge",
)


def read_graded(path: Path) -> list[GradedRow]:
    """The rows of a file, of each answer the last one; see `RowFormat.read`. Raises DataError."""
    return GRADED.read(path)


class GradedFile(RowFile[GradedRow]):
    """The output of one grading run; see `RowFile`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, GRADED)
