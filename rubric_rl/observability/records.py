"""What is logged of a step: its metrics and one readable row for each judged sample.

A row carries everything that is needed to see why a sample got its reward. On
disk it is one JSON object, `encode_row` writes it and `decode_row` validates it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from rubric_rl.errors import DataError
from rubric_rl.types import (
    Criterion,
    FailureCause,
    FinishReason,
    JudgedSample,
    Message,
    Polarity,
    PromptRecord,
    Rubric,
    Verdict,
    VerdictValue,
)

Phase = Literal["train", "eval"]

SAMPLE_FORMAT = "rubric_rl.sample/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionRow:
    """One criterion with its verdict."""

    cid: str
    text: str
    weight: float
    polarity: Polarity
    verdict: VerdictValue
    reason: str
    cause: FailureCause | None
    """Set exactly when the verdict is UNKNOWN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One judged sample, readable on its own."""

    step: int
    phase: Phase
    prompt_id: str
    messages: tuple[Message, ...]
    completion: str
    finish_reason: FinishReason
    criteria: tuple[CriterionRow, ...]
    """In the order of the rubric."""
    reward: float | None
    """None: the sample is unscored."""
    coverage: float
    advantage: float | None
    """None: not trained on (held out, unscored, or in a dropped group)."""
    sample_index: int
    seed: int
    policy_version: int
    rubric_id: str
    rubric_version: int
    judge_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What is logged of one step, evaluation included.

    A later record of the same step, such as an evaluation that a stop had cut
    off, adds to the first.
    """

    step: int
    """Completed optimizer steps; 0 is the evaluation before the first."""
    metrics: Mapping[str, float]
    """Names are in `metrics.METRICS`, values are finite."""
    rows: tuple[SampleRow, ...]


def sample_row(
    judged: JudgedSample,
    *,
    record: PromptRecord,
    rubric: Rubric,
    advantage: float | None,
    step: int,
    phase: Phase,
) -> SampleRow:
    """The row of one sample, given the prompt and the rubric that it was judged under."""
    sample, judgement = judged.sample, judged.judgement
    assert sample.prompt_id == record.prompt_id == rubric.prompt_id
    verdicts = {verdict.cid: verdict for verdict in judgement.verdicts}
    return SampleRow(
        step=step,
        phase=phase,
        prompt_id=record.prompt_id,
        messages=record.messages,
        completion=sample.text,
        finish_reason=sample.finish_reason,
        criteria=tuple(_criterion_row(c, verdicts[c.cid]) for c in rubric.criteria),
        reward=judged.score.value,
        coverage=judged.score.coverage,
        advantage=advantage,
        sample_index=sample.sample_index,
        seed=sample.seed,
        policy_version=sample.policy_version,
        rubric_id=judgement.rubric_id,
        rubric_version=judgement.rubric_version,
        judge_id=judgement.judge_id,
    )


def _criterion_row(criterion: Criterion, verdict: Verdict) -> CriterionRow:
    return CriterionRow(
        cid=criterion.cid,
        text=criterion.text,
        weight=criterion.weight,
        polarity=criterion.polarity,
        verdict=verdict.value,
        reason=verdict.reason,
        cause=verdict.cause,
    )


# ----------------------------------------------------------------------------
# The disk format: one JSON object a line

_ROW: TypeAdapter[SampleRow] = TypeAdapter(SampleRow)


def encode_row(row: SampleRow) -> str:
    """One line of JSON, without its end. Raises ValueError on a NaN or an infinity."""
    payload = {"format": SAMPLE_FORMAT, **dataclasses.asdict(row)}
    # A lone surrogate can't be encoded as UTF-8, and a hostile completion may hold one.
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def decode_row(line: str) -> SampleRow:
    """Inverse of `encode_row`. Raises ValueError with the reason in one line."""
    payload = json.loads(line)
    found = payload.get("format") if isinstance(payload, dict) else None
    if found != SAMPLE_FORMAT:
        raise ValueError(f"format is {found!r}, not {SAMPLE_FORMAT!r}")
    return _ROW.validate_json(line)


def read_rows(path: Path) -> list[SampleRow]:
    """All rows of a samples file, in its order.

    Raises:
        DataError: the file can't be read, or names the line that is wrong and why.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"samples file {str(path)!r} can't be read: {err}") from err
    return [_row_at(path, number, line) for number, line in enumerate(lines, 1) if line]


def _row_at(path: Path, number: int, line: str) -> SampleRow:
    try:
        return decode_row(line)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}, line {number}: {where}: {first['msg']}") from err
    except ValueError as err:
        raise DataError(f"{path}, line {number}: {err}") from err
