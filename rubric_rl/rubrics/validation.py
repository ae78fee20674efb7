"""Validation of rubrics: raw JSON in, a `Rubric` or every problem at once out.

A criterion as a file holds it:

    id        string, unique within the rubric
    text      string, the statement to grade
    weight    finite number above 0
    polarity  1 (meeting it is good, the default) or -1 (meeting it is bad)
    kind      "normal" (the default), "essential" (has polarity 1: the gated reward is 0
              where it is not met) or "veto" (has polarity -1: it is 0 where it is met)
    axis      optional string, the quality that it is about; for reports only
    tags      optional list of strings, for reports only
    rule      optional object, a check to execute: see `rubrics.rules`
    lineage   optional object, how it came to be in this version of the rubric:
      op        "add", "rewrite", "split", "merge" or "keep"
      from      ids of the parent version's criteria that it was made from: none
                for "add", two or more for "merge", one or more for the others
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from rubric_rl.errors import DataError
from rubric_rl.rubrics.rules import RuleCheck, parse_rule
from rubric_rl.types import (
    Criterion,
    CriterionKind,
    Lineage,
    LineageOp,
    Polarity,
    Rubric,
)

CRITERION_KEYS = (
    "id",
    "text",
    "weight",
    "polarity",
    "kind",
    "axis",
    "tags",
    "rule",
    "lineage",
)
LINEAGE_KEYS = ("op", "from")
KINDS: tuple[CriterionKind, ...] = ("normal", "essential", "veto")
OPS: tuple[LineageOp, ...] = ("add", "rewrite", "split", "merge", "keep")

# What a gate's polarity must be; any other would gate on the opposite outcome.
_GATE_POLARITY: dict[CriterionKind, Polarity] = {"essential": 1, "veto": -1}
_LEAST_SOURCES: dict[LineageOp, int] = {"add": 0, "rewrite": 1, "split": 1, "merge": 2, "keep": 1}


def build_rubric(prompt_id: str, raw_criteria: object, *, version: int = 0, source: str) -> Rubric:
    """Validate the criteria of one prompt.

    Args:
        prompt_id: The prompt that the rubric belongs to.
        raw_criteria: The list of criteria, as JSON holds it.
        version: Version of the rubric.
        source: File and line, for the error message.

    Raises:
        DataError: lists every problem of the rubric, one a line.
    """
    criteria, problems = parse_criteria(raw_criteria)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise DataError(f"{source}: the rubric of prompt {prompt_id!r} is not valid:{lines}")
    return Rubric(prompt_id=prompt_id, version=version, criteria=criteria)


def parse_criteria(raw_criteria: object) -> tuple[tuple[Criterion, ...], list[str]]:
    """The valid criteria, in input order, and every problem found.

    The criteria make up a rubric only when there is no problem.
    """
    if not isinstance(raw_criteria, list):
        return (), [f"criteria: got {describe_value(raw_criteria)}, want a list of objects"]
    raws = cast("list[object]", raw_criteria)
    if not raws:
        return (), ["the rubric is empty: give it at least one criterion"]
    criteria: list[Criterion] = []
    problems: list[str] = []
    for position, raw in enumerate(raws, start=1):
        criterion, found = _parse_criterion(raw)
        if criterion is not None:
            criteria.append(criterion)
        where = f"criterion {position}{_cid_of(raw)}"
        problems.extend(f"{where}: {problem}" for problem in found)
    return tuple(criteria), problems + _rubric_problems(raws)


def unknown_key_problems(fields: Mapping[str, object], known: Sequence[str]) -> list[str]:
    """A problem for each key that is not known, naming the nearest known one."""
    problems: list[str] = []
    for key in sorted(set(fields) - set(known)):
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        problems.append(f"unknown key {key!r}: {hint}")
    return problems


def text_field(fields: Mapping[str, object], key: str, problems: list[str]) -> str:
    """The non-blank string under `key`; otherwise "" and one more problem."""
    if key not in fields:
        problems.append(f"{key} is missing")
        return ""
    value = fields[key]
    if not isinstance(value, str):
        problems.append(f"{key}: got {describe_value(value)}, want a string")
        return ""
    if not value.strip():
        problems.append(f"{key} is blank")
    return value


def describe_value(value: object) -> str:
    """A value in an error message: its JSON type, and the value itself when short."""
    if value is None:
        return "null"
    names = {"dict": "an object", "list": "a list", "str": "a string", "bool": "a boolean"}
    names |= {"int": "a number", "float": "a number"}
    name = names.get(type(value).__name__, "a value")
    text = repr(value)
    return f"{name} ({text})" if len(text) <= 40 else name


def _parse_criterion(raw: object) -> tuple[Criterion | None, list[str]]:
    if not isinstance(raw, dict):
        return None, [f"got {describe_value(raw)}, want an object with id, text and weight"]
    fields = cast("dict[str, object]", raw)
    problems = unknown_key_problems(fields, CRITERION_KEYS)
    criterion = Criterion(
        cid=text_field(fields, "id", problems),
        text=text_field(fields, "text", problems),
        weight=_weight(fields, problems),
        polarity=_polarity(fields, problems),
        kind=_kind(fields, problems),
        axis=_axis(fields, problems),
        tags=_strings(fields, "tags", problems),
        rule=_rule(fields, problems),
        lineage=_lineage(fields, problems),
    )
    problems += _gate_problems(criterion, fields)
    return (None, problems) if problems else (criterion, problems)


def _weight(fields: Mapping[str, object], problems: list[str]) -> float:
    # Always a float: the content hash of a rubric must not tell 3 from 3.0.
    if "weight" not in fields:
        problems.append("weight is missing")
        return math.nan
    value = fields["weight"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        problems.append(f"weight: got {describe_value(value)}, want a number above 0")
        return math.nan
    try:
        weight = float(value)
    except OverflowError:
        weight = math.inf
    if not math.isfinite(weight):
        problems.append(f"weight: got {weight}, want a finite number above 0")
    elif weight <= 0:
        problems.append(
            f"weight: got {value}, want a number above 0 (weightless criteria can't be earned; "
            "a criterion that is bad to meet has polarity -1)"
        )
    return weight


def _polarity(fields: Mapping[str, object], problems: list[str]) -> Polarity:
    value = fields.get("polarity", 1)
    if isinstance(value, int) and not isinstance(value, bool) and value in (1, -1):
        return value
    problems.append(f"polarity: got {describe_value(value)}, want 1 or -1")
    return 1


def _rule(fields: Mapping[str, object], problems: list[str]) -> RuleCheck | None:
    value = fields.get("rule")
    if value is None:
        return None
    try:
        return parse_rule(value)
    except DataError as err:
        problems.append(str(err))
        return None


def _kind(fields: Mapping[str, object], problems: list[str]) -> CriterionKind:
    value = fields.get("kind", "normal")
    if value in KINDS:
        return value
    problems.append(f"kind: got {describe_value(value)}, want {_choice(KINDS)}")
    return "normal"


def _gate_problems(criterion: Criterion, fields: Mapping[str, object]) -> list[str]:
    wanted = _GATE_POLARITY.get(criterion.kind)
    stated = fields.get("polarity", 1)
    # One that isn't valid at all is a problem of its own.
    if wanted is None or criterion.polarity == wanted or stated != criterion.polarity:
        return []
    got = stated if "polarity" in fields else "1 (the default)"
    meaning = "good to meet" if wanted == 1 else "bad to meet"
    return [
        f"kind {criterion.kind!r} is for a criterion that is {meaning}, so its polarity must be "
        f"{wanted}, got {got}"
    ]


def _axis(fields: Mapping[str, object], problems: list[str]) -> str | None:
    return None if fields.get("axis") is None else text_field(fields, "axis", problems)


def _strings(fields: Mapping[str, object], key: str, problems: list[str]) -> tuple[str, ...]:
    value = fields.get(key)
    if value is None:
        return ()
    if isinstance(value, list):
        items = cast("list[object]", value)
        strings = [item for item in items if isinstance(item, str)]
        if len(strings) == len(items):
            return tuple(strings)
    problems.append(f"{key}: got {describe_value(fields[key])}, want a list of strings")
    return ()


def _lineage(fields: Mapping[str, object], problems: list[str]) -> Lineage | None:
    value = fields.get("lineage")
    if value is None:
        return None
    if not isinstance(value, dict):
        problems.append(f"lineage: got {describe_value(value)}, want an object with op and from")
        return None
    found: list[str] = []
    lineage = _parse_lineage(cast("dict[str, object]", value), found)
    problems.extend(f"lineage: {problem}" for problem in found)
    return None if found else lineage


def _parse_lineage(fields: Mapping[str, object], problems: list[str]) -> Lineage:
    problems += unknown_key_problems(fields, LINEAGE_KEYS)
    op = fields.get("op")
    if op not in OPS:
        problems.append(f"op: got {describe_value(op)}, want {_choice(OPS)}")
    lineage = Lineage(op=cast("LineageOp", op), sources=_strings(fields, "from", problems))
    if not problems:
        problems += _source_problems(lineage)
    return lineage


def _source_problems(lineage: Lineage) -> list[str]:
    num_sources, least = len(set(lineage.sources)), _LEAST_SOURCES[lineage.op]
    if num_sources != len(lineage.sources):
        return [f"from: {list(lineage.sources)} names an id more than once"]
    if lineage.op == "add" and num_sources:
        return [f"from: op 'add' is for a criterion made of none, got {list(lineage.sources)}"]
    if num_sources < least:
        return [f"from: got {num_sources} ids, op {lineage.op!r} needs at least {least}"]
    return []


def _choice(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _cid_of(raw: object) -> str:
    if not isinstance(raw, dict):
        return ""
    cid = cast("dict[str, object]", raw).get("id")
    return f" ({cid!r})" if isinstance(cid, str) else ""


def _rubric_problems(raws: Sequence[object]) -> list[str]:
    """What can be seen only on all criteria together."""
    objects = [cast("dict[str, object]", raw) for raw in raws if isinstance(raw, dict)]
    counts = Counter(cid for fields in objects if isinstance(cid := fields.get("id"), str))
    problems = [f"id {cid!r} occurs {count} times" for cid, count in counts.items() if count > 1]
    if objects and all(_is_fault(fields) for fields in objects):
        problems.append(
            "no criterion has polarity 1, so nothing can be earned: add one that is good to meet"
        )
    return problems


def _is_fault(fields: Mapping[str, object]) -> bool:
    return fields.get("polarity", 1) == -1 or fields.get("kind") == "veto"
