"""From the rows of a foreign file to prompts: what all formats have in common.

    row --identify--> id
    row --convert--> Draft --checks of the prompt and the rubric--> LoadedPrompt
                or RowError --> Dropped

One bad criterion drops its row, as the rest would be another rubric than the one
that its author wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from rubric_rl.data.formats.imported import Doubt, Imported
from rubric_rl.data.records import Dropped, LoadedPrompt, RawRow, Split, parse_messages
from rubric_rl.rubrics.validation import describe_value, parse_criteria
from rubric_rl.types import PromptRecord, Rubric

Fields = Mapping[str, object]
RawCriterion = dict[str, object]
"""A criterion as `rubrics.validation` documents it."""


class RowError(Exception):
    """Why a row can't be used, and where in it; rows dropped for one cause share `what`."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what, where)
        self.what = what
        self.where = where


class Remark(NamedTuple):
    """A doubt before it knows its prompt."""

    cid: str | None
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is used of a row, the same for every format, not checked yet."""

    messages: object
    criteria: list[RawCriterion]
    domain: str
    reference: str | None = None
    split: Split | None = None
    version: int = 0
    row_hash: str | None = None
    """Of the row that the prompt first came from, if that isn't this one."""
    remarks: list[Remark] = field(default_factory=list[Remark])


def assemble(
    rows: Sequence[RawRow],
    identify: Callable[[Fields], str],
    convert: Callable[[Fields], Draft],
) -> Imported:
    """Every row as a prompt or with the reason why it is left out.

    `identify` gives an id for any row, however bad; `convert` may raise RowError.
    """
    loaded: dict[str, LoadedPrompt] = {}
    dropped: list[Dropped] = []
    doubts: list[Doubt] = []
    for row in rows:
        prompt_id = identify(row.value)
        try:
            draft = convert(row.value)
            prompt = _load(row, prompt_id, draft)
            if prompt_id in loaded:
                raise RowError("the id occurs before", loaded[prompt_id].record.source)
        except RowError as err:
            dropped.append(
                Dropped(source=row.source, prompt_id=prompt_id, reason=err.what, detail=err.where)
            )
            continue
        loaded[prompt_id] = prompt
        doubts += [
            Doubt(source=row.source, prompt_id=prompt_id, cid=remark.cid, what=remark.what)
            for remark in draft.remarks
        ]
    return Imported(loaded=tuple(loaded.values()), dropped=tuple(dropped), doubts=tuple(doubts))


def _load(row: RawRow, prompt_id: str, draft: Draft) -> LoadedPrompt:
    messages, found = parse_messages(draft.messages)
    if found:
        raise RowError(found[0].what, found[0].where)
    if all(criterion.get("polarity") == -1 for criterion in draft.criteria):
        raise RowError("no criterion is good to meet")
    criteria, problems = parse_criteria(draft.criteria)
    if problems:
        raise RowError("the rubric is not valid", problems[0])
    prompt = LoadedPrompt(
        record=PromptRecord(
            prompt_id=prompt_id,
            messages=messages,
            domain=draft.domain,
            source=row.source,
            row_hash=draft.row_hash or row.row_hash,
            reference=draft.reference,
        ),
        rubric=Rubric(prompt_id=prompt_id, version=draft.version, criteria=criteria),
        split=draft.split,
    )
    _check_canary(row.value, prompt)
    return prompt


def _check_canary(fields: Fields, prompt: LoadedPrompt) -> None:
    """Benchmarks mark their rows with a string that must not be in anything trained on."""
    marks = [fields.get("canary"), member(parsed(fields.get("extra_info")), "canary")]
    for mark in marks:
        if not isinstance(mark, str) or not mark.strip():
            continue
        if any(mark.strip() in text for text in _texts(prompt)):
            raise RowError("the benchmark's canary is in one of its texts")


def _texts(prompt: LoadedPrompt) -> Iterator[str]:
    yield from (message.content for message in prompt.record.messages)
    yield prompt.record.reference or ""
    for criterion in prompt.rubric.criteria:
        yield criterion.text
        yield from criterion.tags


# ----------------------------------------------------------------------------
# Values


def member(struct: object, key: str) -> object:
    """The value under a key; None if there is no struct or no key."""
    return cast("dict[str, object]", struct).get(key) if isinstance(struct, dict) else None


def items_of(value: object) -> list[object]:
    """The items of a list; none if it is none."""
    return cast("list[object]", value) if isinstance(value, list) else []


def parsed(value: object) -> object:
    """What a string of JSON holds; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        # Not JSON, or nothing that anyone meant: a long row of brackets, say.
        return value


def is_blank(value: object) -> bool:
    """Null, NaN or white space: how tables mark a slot that isn't used."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def text_of(value: object) -> str | None:
    """A string that is not blank; None for anything else."""
    return value if isinstance(value, str) and value.strip() else None


def as_messages(prompt: object) -> object:
    """A conversation from a plain text, from JSON in a string, or as it is."""
    if not isinstance(prompt, str):
        return prompt
    value = items_of(parsed(prompt))
    # A user may well ask about a piece of JSON: only a list of messages is one.
    if value and all(member(item, "role") for item in value):
        return value
    return [{"role": "user", "content": prompt}]


def domain_of(*candidates: object) -> str:
    """The first of the candidates that is a text; one of them must be."""
    return next(text for candidate in candidates if (text := text_of(candidate)))


def hashed_id(prefix: str, *parts: object) -> str:
    """An id for a row without one: it depends on its content and not on its place."""
    text = json.dumps(parts, ensure_ascii=True, default=repr)
    return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


# ----------------------------------------------------------------------------
# Criteria


def numbered(raw_criteria: object) -> list[tuple[str, object]]:
    """Each criterion with its id: c1, c2, ... in order."""
    items = items_of(parsed(raw_criteria))
    if not items:
        raise RowError("no criteria")
    return [(f"c{position}", item) for position, item in enumerate(items, start=1)]


def criterion_text(item: object, key: str, cid: str) -> str:
    text = text_of(member(item, key))
    if text is None:
        raise RowError("a criterion is blank", cid)
    return text


def finite_number(value: object, subject: str, cid: str) -> float:
    """A finite number other than 0. `subject` begins the reason, as in `points are`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise RowError(f"{subject} not a finite number", f"{cid}: {describe_value(value)}")
    if value == 0:
        raise RowError(f"{subject} 0", cid)
    return float(value)


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
