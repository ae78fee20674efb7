"""OpenRubrics: preference pairs, each with a rubric written as one text.

    instruction, response_a, response_b, winner, rubric, source

    1. The response has exactly three items. [Hard Rule]
    2. The response is easy to follow. [Principle]

How a row is read:

1. The text is cut at its numbers 1., 2., 3. in their order; an item may run over
   several lines and ends with its type. An item that doesn't, or that has a type
   in the middle too, drops its row.
2. The format has no weights. They are the user's to give, one for each type: the
   option weights=hard=2,principle=1 is needed.
3. Every item says how a good answer is, so the polarity is 1. The type is kept as
   the tag `type:hard_rule` or `type:principle`; with the option essential_gates=true
   a Hard Rule becomes kind `essential`.
4. The responses and the winner are not used. A row has no id: it gets one from its
   content. Its domain is `openrubrics`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rubric_rl.data.formats.imported import Imported, ReadOptions, TypeWeights
from rubric_rl.data.formats.rows import (
    Draft,
    Fields,
    RawCriterion,
    Remark,
    RowError,
    as_messages,
    assemble,
    domain_of,
    hashed_id,
    text_of,
)
from rubric_rl.data.records import RawRow
from rubric_rl.errors import ConfigError

_DOMAIN = "openrubrics"
_NUMBER = re.compile(r"^[ \t]*(?:\*\*)?(\d{1,3})[.)](?:\*\*)?[ \t]+", re.M)
_MARKER = re.compile(r"\[\s*(?:hard[ _-]?rule|principle)\s*\]", re.I)
_TYPE = re.compile(r"\s*\**\[\s*(hard[ _-]?rule|principle)\s*\]\**[.;]?\s*$", re.I)


def read_openrubrics(rows: Sequence[RawRow], options: ReadOptions) -> Imported:
    """Prompts, dropped rows and doubts; options: domain, essential_gates, weights (needed).

    Raises:
        ConfigError: no weights are given.
    """
    weights = options.weights
    if weights is None:
        raise ConfigError(
            f"{options.path}: openrubrics has types and no weights, so they are yours to give: "
            "run `rubric-rl rubrics import` with --option weights=hard=2,principle=1 (any numbers "
            "above 0), and use the file that it writes"
        )

    def convert(fields: Fields) -> Draft:
        remarks: list[Remark] = []
        items = _items(fields.get("rubric"), remarks)
        criteria = [
            _criterion(item, f"c{position}", weights, options)
            for position, item in enumerate(items, start=1)
        ]
        return Draft(
            messages=as_messages(fields.get("instruction")),
            criteria=criteria,
            domain=domain_of(options.domain, _DOMAIN),
            remarks=remarks,
        )

    return assemble(rows, _identify, convert)


def _identify(fields: Fields) -> str:
    return hashed_id("openrubrics", fields.get("instruction"), fields.get("rubric"))


def _items(rubric: object, remarks: list[Remark]) -> list[str]:
    """The numbered items, without their numbers. Raises RowError."""
    text = text_of(rubric)
    if text is None:
        raise RowError("no criteria")
    starts: list[re.Match[str]] = []
    for found in _NUMBER.finditer(text):
        # A list inside an item has numbers of its own, which don't go on from the last.
        if int(found[1]) == len(starts) + 1:
            starts.append(found)
    if not starts:
        raise RowError("the rubric has no numbered items")
    if text[: starts[0].start()].strip():
        remarks.append(Remark(None, "text before the first item of the rubric is left out"))
    ends = [*(start.start() for start in starts[1:]), len(text)]
    return [text[start.end() : end].strip() for start, end in zip(starts, ends, strict=True)]


def _criterion(item: str, cid: str, weights: TypeWeights, options: ReadOptions) -> RawCriterion:
    found = _TYPE.search(item)
    if found is None:
        raise RowError("an item doesn't end with [Hard Rule] or [Principle]", cid)
    text = item[: found.start()]
    if _MARKER.search(text):
        raise RowError("an item holds another one: its number is missing or out of order", cid)
    if not text.strip():
        raise RowError("a criterion is blank", cid)
    is_hard = found[1].lower().startswith("hard")
    return {
        "id": cid,
        "text": text,
        "weight": weights.hard if is_hard else weights.principle,
        "kind": "essential" if options.essential_gates and is_hard else "normal",
        "tags": ["type:hard_rule" if is_hard else "type:principle"],
    }
