"""Criteria with signed points, as HealthBench and verl's layout have them.

    {"criterion": "Tells the user to run.", "points": -4, "tags": [...] or {...}}

The sign is this layout's documented polarity field: positive points are earned by
meeting the criterion, negative ones are lost by meeting it. So points 5 is weight 5
with polarity 1, and points -5 is weight 5 with polarity -1. That is a rule of the
layout; wording is never looked at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from rubric_rl.data.formats.rows import (
    RawCriterion,
    RowError,
    criterion_text,
    finite_number,
    hashed_id,
    items_of,
    member,
    numbered,
    parsed,
)

# Tags that come as a struct are listed in this order; others follow by name.
_TAG_ORDER = ("axis", "level", "cluster", "verifier", "function", "parameters")
_AXIS = "axis:"


def reward_model_of(fields: object) -> object:
    """The struct with the rubrics, which some copies hold as JSON in a string."""
    return parsed(member(fields, "reward_model"))


def rubrics_of(reward_model: object) -> object:
    """Raises RowError if what should hold the rubrics is a text."""
    if isinstance(reward_model, str):
        raise RowError("reward_model is a text that is not JSON")
    return parsed(member(reward_model, "rubrics"))


def signed_criteria(rubrics: object) -> list[RawCriterion]:
    """The criteria in the form that `parse_criteria` takes. Raises RowError."""
    return [signed_criterion(item, cid) for cid, item in numbered(rubrics)]


def signed_criterion(item: object, cid: str) -> RawCriterion:
    text = criterion_text(item, "criterion", cid)
    points = finite_number(member(item, "points"), "points are", cid)
    tags = tag_strings(member(item, "tags"))
    return {
        "id": cid,
        "text": text,
        "weight": abs(points),
        "polarity": 1 if points > 0 else -1,
        "axis": _axis_of(tags),
        "tags": tags,
    }


def signed_id(prefix: str, prompt: object, rubrics: object) -> str:
    """An id from the prompt, the criteria and their points.

    Field by field: the order of keys and the form of tags differ between layouts.
    """
    return hashed_id(
        prefix,
        [[member(item, "role"), member(item, "content")] for item in items_of(parsed(prompt))]
        or prompt,
        [[member(item, "criterion"), member(item, "points")] for item in items_of(parsed(rubrics))],
    )


def tag_strings(tags: object) -> list[str]:
    """Tags as strings; of a struct `name:value` for each that has a value."""
    if not isinstance(tags, dict):
        return [_as_text(tag) for tag in items_of(tags) if _has_value(tag)]
    struct = cast("dict[str, object]", tags)
    names = sorted(struct, key=lambda name: (_rank(name), name))
    return [f"{name}:{_as_text(struct[name])}" for name in names if _has_value(struct[name])]


def _rank(name: str) -> int:
    return _TAG_ORDER.index(name) if name in _TAG_ORDER else len(_TAG_ORDER)


def _has_value(tag: object) -> bool:
    """Parquet gives every row all members that any row has, most of them null."""
    if isinstance(tag, dict):
        return any(_has_value(value) for value in tag.values())
    return bool(tag.strip()) if isinstance(tag, str) else tag is not None and tag != []


def _as_text(tag: object) -> str:
    if isinstance(tag, str):
        return tag
    if isinstance(tag, dict):
        tag = {key: value for key, value in tag.items() if value is not None}
    return json.dumps(tag, sort_keys=True, ensure_ascii=False, default=repr)


def _axis_of(tags: Sequence[str]) -> str | None:
    """The axis, if exactly one tag names one."""
    axes = [tag.removeprefix(_AXIS) for tag in tags if tag.startswith(_AXIS)]
    return axes[0] if len(axes) == 1 and axes[0].strip() else None
