"""Builders of rows and records, small enough to compute by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rubric_rl.observability.records import (
    CriterionRow,
    CriterionStats,
    Phase,
    SampleRow,
    StepRecord,
)
from rubric_rl.types import FailureCause, Message, Polarity, VerdictValue

RowMaker = Callable[..., SampleRow]
CriterionMaker = Callable[..., CriterionRow]
StatsMaker = Callable[..., CriterionStats]


def _criterion(
    cid: str = "c1",
    verdict: VerdictValue = VerdictValue.MET,
    *,
    text: str = "names a doctor",
    weight: float = 1.0,
    polarity: Polarity = 1,
) -> CriterionRow:
    unknown = verdict is VerdictValue.UNKNOWN
    return CriterionRow(
        cid=cid,
        text=text,
        weight=weight,
        polarity=polarity,
        verdict=verdict,
        reason="because",
        cause=FailureCause.TIMEOUT if unknown else None,
    )


def _row(
    prompt_id: str = "p1",
    sample_index: int = 0,
    reward: float | None = 1.0,
    *,
    step: int = 3,
    phase: Phase = "train",
    criteria: tuple[CriterionRow, ...] | None = None,
    completion: str = "See a doctor.",
) -> SampleRow:
    return SampleRow(
        step=step,
        phase=phase,
        prompt_id=prompt_id,
        messages=(Message(role="user", content="My knee hurts."),),
        completion=completion,
        finish_reason="stop",
        criteria=(_criterion(),) if criteria is None else criteria,
        reward=reward,
        coverage=1.0,
        advantage=0.5 if phase == "train" else None,
        sample_index=sample_index,
        seed=7,
        policy_version=step,
        rubric_id="r1",
        rubric_version=0,
        judge_id="rules",
    )


def _stats(
    prompt_id: str = "p1", cid: str = "c1", *, step: int = 3, phase: Phase = "train"
) -> CriterionStats:
    return CriterionStats(
        step=step,
        phase=phase,
        prompt_id=prompt_id,
        cid=cid,
        rubric_version=2,
        num_verdicts=8,
        num_unknown=4,
        num_cached=1,
        unknown_causes=((FailureCause.TIMEOUT, 3), (FailureCause.MISSING, 1)),
        pass_rate=0.75,
        variance=0.1875,
        judge_tokens=120.0,
        judge_cost_usd=0.5,
        judge_latency_s=1.25,
    )


@pytest.fixture
def make_stats() -> StatsMaker:
    return _stats


@pytest.fixture
def make_criterion() -> CriterionMaker:
    return _criterion


@pytest.fixture
def make_row() -> RowMaker:
    return _row


@pytest.fixture
def make_record() -> Callable[..., StepRecord]:
    def make(
        step: int, *rows: SampleRow, criteria: tuple[CriterionStats, ...] = (), **metrics: float
    ) -> StepRecord:
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        return StepRecord(step=step, metrics=named, rows=rows, criteria=criteria)

    return make


# Nothing listens there, so a connection is refused at once.
DEAD_SERVER = "http://127.0.0.1:9"


@pytest.fixture
def wandb_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B finds no credentials or settings of whoever runs the tests, and leaves them nothing."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # set first, so that what the code sets is undone too
    monkeypatch.setenv("WANDB_BASE_URL", DEAD_SERVER)
    for name in ("CONFIG", "CACHE"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / f"wandb_{name.lower()}"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
