"""The tables of a step record as W&B shows them: samples, criteria, changes of rubrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rubric_rl.observability.records import CriterionRow, CriterionStats, SampleRow, StepRecord
from rubric_rl.observability.sinks import spread, spread_criteria, spread_rows
from rubric_rl.refinement.describe import gate_words, operation_lines
from rubric_rl.refinement.records import Revision

_COLUMNS = (
    "step",
    "phase",
    "prompt_id",
    "sample_index",
    "prompt",
    "completion",
    "reward",
    "coverage",
    "advantage",
    "verdicts",
    "policy_version",
    "rubric_version",
    "judge_id",
    "mode",
    "gated_from",
    "judge_tokens",
    "judge_cost_usd",
)
_CRITERION_COLUMNS = (
    "step",
    "phase",
    "prompt_id",
    "cid",
    "rubric_version",
    "num_verdicts",
    "num_unknown",
    "num_cached",
    "unknown_causes",
    "pass_rate",
    "variance",
    "judge_tokens",
    "judge_cost_usd",
    "judge_latency_s",
)

_REVISION_COLUMNS = (
    "step",
    "prompt_id",
    "round",
    "status",
    "version",
    "author",
    "changes",
    "contrasted",
    "gate",
    "top_ties_before",
    "top_ties_after",
    "why_not",
    "cost_usd",
)
_MOST_REVISIONS = 500
"""A pass over many prompts makes thousands; the rubric store has them all."""

TABLES = ("samples", "criteria", "rubric_changes")
"""Names of the tables."""

Cell = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """Rows under the names of their columns."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def tables_of(record: StepRecord, most_rows: int) -> Iterator[StepTable]:
    """Those that have rows; of samples and criteria at most `most_rows`, spread evenly."""
    samples = [_cells(row) for row in spread_rows(record.rows, most_rows)]
    criteria = [_criterion_cells(s) for s in spread_criteria(record.criteria, most_rows)]
    ordered = sorted(record.revisions, key=lambda r: (r.prompt_id, r.number))
    revisions = [_revision_cells(r, record.step) for r in spread(ordered, _MOST_REVISIONS)]
    contents = (
        (_COLUMNS, samples),
        (_CRITERION_COLUMNS, criteria),
        (_REVISION_COLUMNS, revisions),
    )
    for name, (columns, rows) in zip(TABLES, contents, strict=True):
        if rows:
            yield StepTable(name=name, columns=columns, rows=rows)


def _cells(row: SampleRow) -> list[Cell]:
    return [
        row.step,
        row.phase,
        row.prompt_id,
        row.sample_index,
        "\n\n".join(f"{message.role}: {message.content}" for message in row.messages),
        row.completion,
        row.reward,
        row.coverage,
        row.advantage,
        "\n".join(_verdict_line(criterion) for criterion in row.criteria),
        row.policy_version,
        row.rubric_version,
        row.judge_id,
        row.mode,
        row.gated_from,
        row.usage.tokens,
        row.usage.cost_usd,
    ]


def _criterion_cells(stats: CriterionStats) -> list[Cell]:
    causes = ", ".join(f"{cause} {count}" for cause, count in stats.unknown_causes)
    cells: dict[str, Cell] = dataclasses.asdict(stats) | {"unknown_causes": causes}
    return [cells[column] for column in _CRITERION_COLUMNS]


def _verdict_line(row: CriterionRow) -> str:
    cause = f" ({row.cause})" if row.cause else ""
    sign = "" if row.polarity == 1 else "-"
    return f"[{row.verdict}{cause}] {sign}{row.weight:g} {row.text}: {row.reason}"


def _revision_cells(revision: Revision, step: int) -> list[Cell]:
    gate = revision.gate
    return [
        step,
        revision.prompt_id,
        revision.round,
        revision.status,
        revision.version,
        revision.author,
        "\n".join(line for o in revision.operations for line in operation_lines(o)),
        " and ".join(revision.evidence),
        None if gate is None else gate_words(gate),
        None if gate is None else gate.top_ties_before,
        None if gate is None else gate.top_ties_after,
        "\n".join(revision.reasons),
        revision.cost_usd,
    ]
