"""RaR (Rubrics as Rewards), medicine and science.

    question, reference_answer, question_source,
    rubric[{title, description, weight}], rubric_list, rubric_count

How a row is read:

1. `description` begins with its type: "Essential Criteria: ...", or Important,
   Optional, Pitfall. The type becomes the tag `type:essential` and is cut off the
   text; the title becomes the tag `title:...`.
2. The type is the polarity: a Pitfall has polarity -1, as in the weighted sum that
   the set was made for, all others 1. The sign of `weight` follows the type; where
   it doesn't, that is a doubt and the type holds.
3. Many Pitfalls say what to avoid, so that meeting them is good, and polarity -1 is
   the wrong way round. Nothing but the wording tells, so each is kept as the format
   says and listed as a doubt. Where a file words nearly all of them like that, the
   option pitfall_polarity=1 turns all of them around; then the others are listed.
4. Essential stays kind `normal`; with the option essential_gates=true it becomes
   kind `essential`.
5. `reference_answer` is the reference. A row has no id: it gets one from its content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

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
    text_of,
)
from rubric_rl.data.records import RawRow
from rubric_rl.types import Polarity

_DOMAIN = "rar"
_TYPE = re.compile(r"\s*(essential|important|optional|pitfall)\s+criteri(?:a|on)\s*:\s*", re.I)
_SUBJECT = r"^(?:the )?(?:(?:response|answer|explanation|model) )?"
_REPORTS = (
    "mention|state|recommend|include|identify|address|note|specify|suggest|list|provide|discuss|"
    "explain|acknowledge|consider|give|offer|describe|clarify|advise|warn|emphasi[sz]e|ask"
)
# How a Pitfall words a fault, so that meeting it is bad ...
_FAULT = re.compile(
    rf"{_SUBJECT}(?:(?:does not|doesn't|do not) (?:{_REPORTS})\b|fail(?:s|ing)? to\b|"
    r"(?:omit|ignore|overlook|neglect|lack|confuse|mistake)(?:s|ing)?\b|miss(?:es|ing)?\b|"
    r"(?:incorrectly|wrongly|falsely|erroneously) )",
    re.I,
)
# ... and how it words what to avoid, so that meeting it is good.
_AVOIDANCE = re.compile(
    rf"{_SUBJECT}(?:avoid(?:s|ing)?\b|refrain(?:s|ing)?\b|steer(?:s|ing)? clear\b|never\b|"
    rf"(?:must|should) (?:not|never|avoid|refrain)\b|"
    rf"(?:does not|doesn't|do not|don't) (?!(?:{_REPORTS})\b))",
    re.I,
)


def read_rar(rows: Sequence[RawRow], options: ReadOptions) -> Imported:
    """Prompts, dropped rows and doubts; options: domain, essential_gates, pitfall_polarity."""

    def convert(fields: Fields) -> Draft:
        remarks: list[Remark] = []
        criteria = [
            _criterion(item, cid, options, remarks) for cid, item in numbered(fields.get("rubric"))
        ]
        _check_count(fields.get("rubric_count"), len(criteria), remarks)
        return Draft(
            messages=as_messages(fields.get("question")),
            criteria=criteria,
            domain=domain_of(options.domain, _DOMAIN),
            reference=text_of(fields.get("reference_answer")),
            remarks=remarks,
        )

    return assemble(rows, _identify, convert)


def _identify(fields: Fields) -> str:
    items = items_of(parsed(fields.get("rubric")))
    criteria = [[member(item, "description"), member(item, "weight")] for item in items]
    return hashed_id("rar", fields.get("question"), criteria)


def _criterion(item: object, cid: str, options: ReadOptions, remarks: list[Remark]) -> RawCriterion:
    description = criterion_text(item, "description", cid)
    weight = finite_number(member(item, "weight"), "the weight is", cid)
    kind, text = _typed(description, weight, cid, remarks)
    if not text.strip():
        raise RowError("a criterion is blank", cid)
    polarity: Polarity = options.pitfall_polarity if kind == "pitfall" else 1
    if kind is not None and (weight < 0) != (kind == "pitfall"):
        remarks.append(Remark(cid, f"type {kind} has the weight {weight:g}: kept as its type says"))
    if kind == "pitfall":
        remarks += _wording(text, polarity, cid)
    tags = [f"type:{kind}"] if kind else []
    title = text_of(member(item, "title"))
    gates = options.essential_gates and kind == "essential"
    return {
        "id": cid,
        "text": text,
        "weight": abs(weight),
        "polarity": polarity,
        "kind": "essential" if gates else "normal",
        "tags": [*tags, *([f"title:{title}"] if title else [])],
    }


def _typed(
    description: str, weight: float, cid: str, remarks: list[Remark]
) -> tuple[str | None, str]:
    """The type, lower case, and the text without it. Raises RowError."""
    found = _TYPE.match(description)
    if found is not None:
        return found[1].lower(), description[found.end() :]
    if weight < 0:
        # Whether meeting it is bad would be a guess from the sign alone.
        raise RowError("a criterion has no type and a weight below 0", cid)
    remarks.append(Remark(cid, "has no type: read as good to meet"))
    return None, description


def _wording(text: str, polarity: Polarity, cid: str) -> list[Remark]:
    """A doubt if the wording of a Pitfall speaks against its polarity."""
    against = _AVOIDANCE if polarity == -1 else _FAULT
    found = against.search(text.strip())
    if found is None:
        return []
    meaning = "good" if polarity == -1 else "bad"
    return [
        Remark(
            cid,
            f"{found[0].strip()!r} in a Pitfall suggests that meeting it is {meaning}, "
            f"but its polarity is {polarity}",
        )
    ]


def _check_count(stated: object, count: int, remarks: list[Remark]) -> None:
    if isinstance(stated, int | float) and not is_blank(stated) and not math.isclose(stated, count):
        remarks.append(Remark(None, f"rubric_count is {stated:g}, but there are {count} criteria"))
