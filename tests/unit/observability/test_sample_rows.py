"""Rows say what the judged sample said, and survive the way to disk and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.errors import DataError
from rubric_rl.observability.records import (
    CriterionRow,
    SampleRow,
    decode_row,
    encode_row,
    read_rows,
    sample_row,
)
from rubric_rl.types import (
    Criterion,
    FailureCause,
    JudgedSample,
    Judgement,
    JudgeUsage,
    Message,
    PromptRecord,
    Rubric,
    Sample,
    Score,
    Verdict,
    VerdictValue,
)

RECORD = PromptRecord(
    prompt_id="p1",
    messages=(Message(role="user", content="How much sleep?"),),
    domain="health",
    source="prompts.jsonl:1",
    row_hash="00",
)
RUBRIC = Rubric(
    prompt_id="p1",
    version=2,
    criteria=(
        Criterion(cid="a", text="says 7 to 9 hours", weight=3.0),
        Criterion(cid="b", text="prescribes a drug", weight=1.0, polarity=-1, kind="veto"),
    ),
)


USAGE = JudgeUsage(
    calls=3, retries=1, prompt_tokens=10, completion_tokens=5, cost_usd=0.25, saved_tokens=1.5
)


def _judged(*verdicts: Verdict) -> JudgedSample:
    sample = Sample(
        prompt_id="p1",
        sample_index=4,
        prompt_token_ids=(1, 2),
        completion_token_ids=(3,),
        log_probs=(-0.5,),
        loss_mask=(1,),
        text="About 8 hours.",
        finish_reason="length",
        seed=99,
        policy_version=5,
    )
    judgement = Judgement(
        rubric_id=RUBRIC.rubric_id,
        rubric_version=2,
        judge_id="small-judge",
        template_hash="t",
        mode="each",
        verdicts=verdicts,
        usage=USAGE,
        latency_s=0.1,
    )
    score = Score(value=0.0, coverage=0.75, gated_from=1.0)
    return JudgedSample(sample=sample, judgement=judgement, score=score)


MET_A = Verdict(
    cid="a",
    value=VerdictValue.MET,
    reason="8 is in range",
    probability=0.875,
    votes=(VerdictValue.MET, VerdictValue.UNMET, VerdictValue.MET),
    cached=True,
)
UNKNOWN_B = Verdict(cid="b", value=VerdictValue.UNKNOWN, reason="", cause=FailureCause.UNPARSEABLE)


def test_row_carries_verdicts_versions_and_scores() -> None:
    row = sample_row(
        _judged(MET_A, UNKNOWN_B),
        record=RECORD,
        rubric=RUBRIC,
        advantage=-0.25,
        step=6,
        phase="train",
    )
    assert row == SampleRow(
        step=6,
        phase="train",
        prompt_id="p1",
        messages=RECORD.messages,
        completion="About 8 hours.",
        finish_reason="length",
        criteria=(
            CriterionRow(
                cid="a",
                text="says 7 to 9 hours",
                weight=3.0,
                polarity=1,
                verdict=VerdictValue.MET,
                reason="8 is in range",
                cause=None,
                kind="normal",
                probability=0.875,
                votes=(VerdictValue.MET, VerdictValue.UNMET, VerdictValue.MET),
                cached=True,
            ),
            CriterionRow(
                cid="b",
                text="prescribes a drug",
                weight=1.0,
                polarity=-1,
                verdict=VerdictValue.UNKNOWN,
                reason="",
                cause=FailureCause.UNPARSEABLE,
                kind="veto",
            ),
        ),
        reward=0.0,
        coverage=0.75,
        advantage=-0.25,
        sample_index=4,
        seed=99,
        policy_version=5,
        rubric_id=RUBRIC.rubric_id,
        rubric_version=2,
        judge_id="small-judge",
        template_hash="t",
        mode="each",
        gated_from=1.0,
        usage=USAGE,
    )
    assert decode_row(encode_row(row)) == row


def test_a_row_from_before_judging_was_told_in_full_is_read(make_row) -> None:
    payload = json.loads(encode_row(make_row()))
    for key in ("template_hash", "mode", "gated_from", "usage"):
        del payload[key]
    for key in ("kind", "probability", "votes", "cached"):
        del payload["criteria"][0][key]
    assert decode_row(json.dumps(payload)) == make_row()


def test_criteria_keep_the_order_of_the_rubric_whatever_that_of_the_verdicts() -> None:
    row = sample_row(
        _judged(UNKNOWN_B, MET_A),
        record=RECORD,
        rubric=RUBRIC,
        advantage=None,
        step=1,
        phase="eval",
    )
    assert [criterion.cid for criterion in row.criteria] == ["a", "b"]


def test_row_of_another_prompt_is_a_bug() -> None:
    other = Rubric(prompt_id="p2", version=2, criteria=RUBRIC.criteria)
    with pytest.raises(AssertionError):
        sample_row(
            _judged(MET_A, UNKNOWN_B),
            record=RECORD,
            rubric=other,
            advantage=None,
            step=1,
            phase="eval",
        )


@given(completion=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_completion_survives_encoding_in_one_line(completion: str) -> None:
    row = sample_row(
        _judged(MET_A, UNKNOWN_B), record=RECORD, rubric=RUBRIC, advantage=0.0, step=1, phase="eval"
    )
    row = _with_completion(row, completion)
    line = encode_row(row)
    assert "\n" not in line
    assert "\r" not in line
    assert decode_row(line) == row


def test_lone_surrogate_is_written_as_a_question_mark() -> None:
    row = sample_row(
        _judged(MET_A, UNKNOWN_B), record=RECORD, rubric=RUBRIC, advantage=0.0, step=1, phase="eval"
    )
    assert decode_row(encode_row(_with_completion(row, "a\ud800b"))).completion == "a?b"


def _with_completion(row: SampleRow, completion: str) -> SampleRow:
    import dataclasses

    return dataclasses.replace(row, completion=completion)


def test_non_ascii_text_is_readable_on_disk(make_row) -> None:
    assert "caf\u00e9" in encode_row(make_row(completion="caf\u00e9"))


def test_nan_is_refused(make_row) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_row(make_row(reward=float("nan")))


def test_rows_are_read_back_in_order(tmp_path: Path, make_row) -> None:
    rows = [make_row("p2", 1), make_row("p1", 0, None)]
    path = tmp_path / "eval_000000.jsonl"
    path.write_text("".join(encode_row(row) + "\n" for row in rows), encoding="utf-8")
    assert read_rows(path) == rows


def _wrong_verdict(line: str) -> str:
    payload = json.loads(line)
    payload["criteria"][0]["verdict"] = "maybe"
    return json.dumps(payload)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda line: line[: len(line) // 2], "line 2: "),
        (
            lambda line: line.replace("rubric_rl.sample/1", "rubric_rl.sample/9"),
            "line 2: format is",
        ),
        (lambda line: "[]", "line 2: format is None"),
        (_wrong_verdict, r"line 2: criteria\.0\.verdict: "),
    ],
)
def test_bad_line_is_named_with_its_reason(tmp_path: Path, make_row, spoil, reason: str) -> None:
    line = encode_row(make_row())
    path = tmp_path / "eval_000000.jsonl"
    path.write_text(f"{line}\n{spoil(line)}\n", encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        read_rows(path)


def test_missing_file_and_foreign_encoding_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        read_rows(tmp_path / "none.jsonl")
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(DataError, match="can't be read"):
        read_rows(latin)
