"""Verdicts of one judge beside those of another, labels, or its own: what can be compared.

What was decided by a rule is left out, and so is what the two sides were not asked
about in the same words: both would say nothing about the judge.

A file of labels is JSONL, one criterion of one answer a line:

    {"id": "a7", "cid": "c1", "met": true}

    id         the answer's, as in the graded file; or `prompt_id`, where the file has one
               answer of that prompt
    cid        the criterion's
    met        true, false, null (not labelled), or a list of these, one of each labeller;
               also called `binary_labels`. Each label makes a pair of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rubric_rl.data.reading import list_problems, read_jsonl
from rubric_rl.data.records import RawRow
from rubric_rl.errors import DataError
from rubric_rl.judging.agreement import Pair
from rubric_rl.judging.graded_rows import GradedRow, GradedVerdict
from rubric_rl.rubrics.validation import describe_value, text_field
from rubric_rl.types import VerdictValue

_MAX_EXAMPLES = 20
# What a row that also has rule criteria adds to the judge's name and mode.
_RULES_SUFFIX = "+rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A graded file, of one judge."""

    name: str
    rows: tuple[GradedRow, ...]
    judge_id: str
    mode: str
    template_hash: str

    def verdicts(self) -> Iterator[tuple[GradedRow, GradedVerdict]]:
        """What the judge decided, rules aside."""
        for row in self.rows:
            for verdict in row.verdicts:
                if not verdict.by_rule:
                    yield row, verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What somebody said of one criterion of one answer."""

    row_id: str
    cid: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One pair whose sides differ, to read."""

    row_id: str
    prompt_id: str
    cid: str
    text: str
    judged: VerdictValue
    reason: str


# ----------------------------------------------------------------------------
# Input


def one_judge(name: str, rows: Sequence[GradedRow]) -> Graded:
    """The rows as one judge's.

    Raises:
        DataError: no verdict is a model's, or several judges, modes or templates were at work.
    """
    judges = {
        (_without_rules(row.judge_id), _without_rules(row.mode), row.template_hash)
        for row in rows
        if not all(verdict.by_rule for verdict in row.verdicts)
    }
    if any(verdict.grade is not None for row in rows for verdict in row.verdicts):
        raise DataError(
            f"{name} holds grades of whole answers, and a card is on verdicts: grade with "
            "judge.llm.mode=all, chunk or each"
        )
    if len(judges) != 1:
        found = "; ".join(f"{j} in mode {m}, templates {t}" for j, m, t in sorted(judges))
        raise DataError(
            f"{name} holds verdicts of {len(judges)} judges ({found or 'rules alone'}) and a card "
            "is on one: grade with one model, mode and template into a file of its own"
        )
    ((judge_id, mode, template_hash),) = judges
    return Graded(
        name=name, rows=tuple(rows), judge_id=judge_id, mode=mode, template_hash=template_hash
    )


def _without_rules(name: str) -> str:
    return name.removesuffix(_RULES_SUFFIX)


def read_labels(path: Path, graded: Graded) -> list[Label]:
    """Labels of answers in the graded file; those of others are left out.

    Raises:
        DataError: the file can't be read, or lists what is wrong with its rows.
    """
    try:
        rows = read_jsonl(path)
    except OSError as err:
        raise DataError(f"labels file {str(path)!r} can't be read: {err}") from err
    by_prompt: dict[str, list[str]] = {}
    for row in graded.rows:
        by_prompt.setdefault(row.prompt_id, []).append(row.row_id)
    labels: list[Label] = []
    problems: list[str] = []
    for row in rows:
        found: list[str] = []
        labels += _labels(row, by_prompt, found)
        problems.extend(f"{row.source}: {problem}" for problem in found)
    if problems:
        raise DataError(f"{path} is not a valid file of labels:{list_problems(problems)}")
    return labels


def _labels(
    row: RawRow, by_prompt: Mapping[str, Sequence[str]], problems: list[str]
) -> list[Label]:
    cid = text_field(row.value, "cid", problems)
    row_id = _labelled_row(row.value, by_prompt, problems)
    given = [key for key in ("met", "binary_labels") if key in row.value]
    if len(given) != 1:
        problems.append("want one of met and binary_labels")
        return []
    raw = row.value[given[0]]
    values = cast("list[object]", raw) if isinstance(raw, list) else [raw]
    labels: list[Label] = []
    for value in values:
        if isinstance(value, bool) or value in (0, 1):
            labels.append(Label(row_id=row_id, cid=cid, met=bool(value)))
        elif value is not None:
            problems.append(f"{given[0]}: got {describe_value(value)}, want true, false or null")
    return labels


def _labelled_row(
    fields: Mapping[str, object], by_prompt: Mapping[str, Sequence[str]], problems: list[str]
) -> str:
    if fields.get("id") is not None:
        return text_field(fields, "id", problems)
    prompt_id = text_field(fields, "prompt_id", problems)
    row_ids = by_prompt.get(prompt_id, ())
    if len(row_ids) > 1:
        problems.append(
            f"prompt_id {prompt_id!r} has {len(row_ids)} answers in the graded file: give the "
            "answer's id"
        )
    return row_ids[0] if row_ids else ""


# ----------------------------------------------------------------------------
# Pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What can be compared of two sides, and how much can't."""

    pairs: tuple[Pair, ...]
    num_unpaired: int
    num_unknown: int
    num_cached: int
    disagreements: tuple[Disagreement, ...]


@dataclass(slots=True)
class _Collected:
    pairs: list[Pair]
    counts: Counter[str]
    disagreements: list[Disagreement]

    def add(self, row: GradedRow, verdict: GradedVerdict, truth: bool) -> None:
        judged = verdict.verdict is VerdictValue.MET
        self.pairs.append(
            Pair(
                prompt_id=row.prompt_id,
                judged=judged,
                truth=truth,
                probability=verdict.probability,
            )
        )
        if judged != truth and len(self.disagreements) < _MAX_EXAMPLES:
            self.disagreements.append(
                Disagreement(
                    row_id=row.row_id,
                    prompt_id=row.prompt_id,
                    cid=verdict.cid,
                    text=verdict.text,
                    judged=verdict.verdict,
                    reason=verdict.reason,
                )
            )

    def done(self) -> Pairs:
        return Pairs(
            pairs=tuple(self.pairs),
            num_unpaired=self.counts["unpaired"],
            num_unknown=self.counts["unknown"],
            num_cached=self.counts["cached"],
            disagreements=tuple(self.disagreements),
        )


def pairs_of(left: Graded, right: Graded, *, skip_cached: bool = False) -> Pairs:
    """Pairs of two gradings: same answer, same words of the criterion, both sides known."""
    known = {
        (row.row_id, row.answer_hash, verdict.cid, verdict.text): verdict
        for row, verdict in right.verdicts()
    }
    collected = _Collected([], Counter(), [])
    for row, verdict in left.verdicts():
        other = known.get((row.row_id, row.answer_hash, verdict.cid, verdict.text))
        if other is None:
            collected.counts["unpaired"] += 1
        elif VerdictValue.UNKNOWN in (verdict.verdict, other.verdict):
            collected.counts["unknown"] += 1
        elif skip_cached and (verdict.cached or other.cached):
            collected.counts["cached"] += 1
        else:
            collected.add(row, verdict, other.verdict is VerdictValue.MET)
    return collected.done()


def label_pairs(graded: Graded, labels: Sequence[Label]) -> Pairs:
    """Pairs of a grading with labels; a criterion with several labels makes several."""
    by_key: dict[tuple[str, str], list[bool]] = {}
    for label in labels:
        by_key.setdefault((label.row_id, label.cid), []).append(label.met)
    collected = _Collected([], Counter(), [])
    for row, verdict in graded.verdicts():
        truths = by_key.get((row.row_id, verdict.cid), [])
        if not truths:
            collected.counts["unpaired"] += 1
        for truth in truths:
            if verdict.verdict is VerdictValue.UNKNOWN:
                collected.counts["unknown"] += 1
            else:
                collected.add(row, verdict, truth)
    return collected.done()


def require_pairs(found: Pairs, judge: Graded, name: str) -> None:
    """Raise DataError if nothing can be compared, with the reason."""
    if not found.pairs:
        cached = (
            f", {found.num_cached} from a cache (grade a second opinion with "
            "judge.cache.enabled=false)"
            if found.num_cached
            else ""
        )
        raise DataError(
            f"nothing of {judge.name} can be compared with {name}: {found.num_unpaired} verdicts "
            f"have no counterpart, {found.num_unknown} are unknown on either side{cached}; both "
            "must be on the same answers, with the same ids"
        )
