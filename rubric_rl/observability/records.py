"""What is logged of a step: its metrics, a row for each judged sample, one for each criterion.

A sample's row carries everything that is needed to see why it got its reward. On
disk a row is one JSON object: `encode_row` writes a sample's and `decode_row`
validates it, `encode_criterion` writes a criterion's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from rubric_rl.errors import DataError
from rubric_rl.refinement.records import Revision
from rubric_rl.types import (
    Criterion,
    CriterionKind,
    FailureCause,
    FinishReason,
    JudgedSample,
    JudgeUsage,
    Message,
    Polarity,
    PromptRecord,
    Rubric,
    Verdict,
    VerdictValue,
)

Phase = Literal["train", "eval"]

SAMPLE_FORMAT = "rubric_rl.sample/1"
CRITERION_FORMAT = "rubric_rl.criterion/1"


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
    kind: CriterionKind = "normal"
    probability: float | None = None
    """The judge's, that the criterion is met; None where it isn't told."""
    votes: tuple[VerdictValue, ...] = ()
    """What the verdict was decided by; empty if by one call."""
    cached: bool = False
    grade: float | None = None
    """Of the answer as a whole; set exactly when the verdict is GRADED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One judged sample, readable on its own.

    Fields with a default are missing in rows of earlier versions.
    """

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
    """None: compared with nothing (held out, unscored, or in a dropped group)."""
    sample_index: int
    seed: int
    policy_version: int
    rubric_id: str
    rubric_version: int
    judge_id: str
    template_hash: str = ""
    mode: str = ""
    gated_from: float | None = None
    """The reward that a failed essential or veto criterion took away."""
    usage: JudgeUsage = field(default_factory=JudgeUsage)
    """What judging this sample took."""
    anchor_reward: float | None = None
    """Of a held-out sample: its reward under the rubrics that the run began with."""
    gold_reward: float | None = None
    """Of a held-out sample: its reward by the gold rubrics and judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionStats:
    """One criterion of one prompt, over the samples of its group in one step.

    A sample's judge tokens, cost and latency are shared equally over the criteria
    that the LLM judged for it: those without a rule whose verdict is not from the
    cache. A call judges several criteria at once, so more can't be told. Rule
    criteria and cached verdicts take no share.
    """

    step: int
    phase: Phase
    prompt_id: str
    cid: str
    rubric_version: int
    num_verdicts: int
    num_unknown: int
    num_cached: int
    unknown_causes: tuple[tuple[FailureCause, int], ...]
    """Causes of the UNKNOWN verdicts with their numbers, most frequent first."""
    pass_rate: float | None
    """MET verdicts over judged ones, whatever the polarity; None if none was judged."""
    variance: float | None
    """Of the judged verdicts, met 1 and unmet 0: p (1 - p). None if fewer than two were judged."""
    judge_tokens: float
    judge_cost_usd: float
    judge_latency_s: float


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
    criteria: tuple[CriterionStats, ...] = ()
    revisions: tuple[Revision, ...] = ()
    """What a refinement decided; the rubric store has them too."""


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
        template_hash=judgement.template_hash,
        mode=judgement.mode,
        gated_from=judged.score.gated_from,
        usage=judgement.usage,
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
        kind=criterion.kind,
        probability=verdict.probability,
        votes=verdict.votes,
        cached=verdict.cached,
        grade=verdict.grade,
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


def encode_criterion(stats: CriterionStats) -> str:
    """One line of JSON, without its end; the causes as an object. ValueError as in `encode_row`."""
    payload = {"format": CRITERION_FORMAT, **dataclasses.asdict(stats)}
    payload["unknown_causes"] = dict(stats.unknown_causes)
    return json.dumps(payload, allow_nan=False)


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
