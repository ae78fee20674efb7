"""JunkaiZ/Rubrics: the rubrics published with "Chasing the Tail".

    prompt (a text), rubrics[{criterion, weight}], number_of_criteria, total_weight

How a row is read:

1. Weights are above 0, and meeting a criterion is good: this format has no polarity
   field, so a weight below 0 drops its row.
2. `number_of_criteria` and `total_weight` are compared with the criteria; where they
   differ that is a doubt, as part of the rubric may be missing.
3. A row has no id: it gets one from its content. The file doesn't say which of the
   sets `health` and `generalist` it is: the option domain=NAME does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.rows import (
    Draft,
    Fields,
    RawCriterion,
    Remark,
    RowError,
    as_messages,
    assemble,
    criterion_text,
    domain_of,
    finite_number,
    hashed_id,
    is_blank,
    items_of,
    member,
    numbered,
    parsed,
)
from rubric_rl.data.records import RawRow

_DOMAIN = "junkaiz"


def read_junkaiz(rows: Sequence[RawRow], options: ReadOptions) -> Imported:
    """Prompts, dropped rows and doubts; option: domain."""

    def convert(fields: Fields) -> Draft:
        criteria = [_criterion(item, cid) for cid, item in numbered(fields.get("rubrics"))]
        return Draft(
            messages=as_messages(fields.get("prompt")),
            criteria=criteria,
            domain=domain_of(options.domain, _DOMAIN),
            remarks=_sums(fields, criteria),
        )

    return assemble(rows, _identify, convert)


def _identify(fields: Fields) -> str:
    items = items_of(parsed(fields.get("rubrics")))
    criteria = [[member(item, "criterion"), member(item, "weight")] for item in items]
    return hashed_id("junkaiz", fields.get("prompt"), criteria)


def _criterion(item: object, cid: str) -> RawCriterion:
    text = criterion_text(item, "criterion", cid)
    weight = finite_number(member(item, "weight"), "the weight is", cid)
    if weight < 0:
        raise RowError("a weight is below 0, and the format has no polarity", cid)
    return {"id": cid, "text": text, "weight": weight}


def _sums(fields: Fields, criteria: Sequence[RawCriterion]) -> list[Remark]:
    total = math.fsum(cast("float", criterion["weight"]) for criterion in criteria)
    sums = (("number_of_criteria", len(criteria)), ("total_weight", total))
    return [
        Remark(None, f"{key} is {stated:g}, but the criteria give {actual:g}")
        for key, actual in sums
        if isinstance(stated := fields.get(key), int | float)
        and not is_blank(stated)
        and not math.isclose(stated, actual)
    ]
