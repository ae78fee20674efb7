"""Validation of rubrics: raw JSON in, a `Rubric` or every problem at once out.

A criterion as a file holds it:

    id        string, unique within the rubric
    text      string, the statement to grade
    weight    finite number above 0
    polarity  1 (meeting it is good, the default) or -1 (meeting it is bad)
    rule      optional object, a check to execute: see `rubrics.rules`
    tags      optional list of strings, for reports only
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from rubric_rl.errors import DataError
from rubric_rl.rubrics.rules import RuleCheck, parse_rule
from rubric_rl.types import Criterion, Polarity, Rubric

CRITERION_KEYS = ("id", "text", "weight", "polarity", "rule", "tags")


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
        rule=_rule(fields, problems),
        tags=_tags(fields, problems),
    )
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


def _tags(fields: Mapping[str, object], problems: list[str]) -> tuple[str, ...]:
    value = fields.get("tags")
    if value is None:
        return ()
    if isinstance(value, list):
        tags = cast("list[object]", value)
        strings = [tag for tag in tags if isinstance(tag, str)]
        if len(strings) == len(tags):
            return tuple(strings)
    problems.append(f"tags: got {describe_value(fields['tags'])}, want a list of strings")
    return ()


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
    if objects and all(fields.get("polarity", 1) == -1 for fields in objects):
        problems.append(
            "no criterion has polarity 1, so nothing can be earned: add one that is good to meet"
        )
    return problems
