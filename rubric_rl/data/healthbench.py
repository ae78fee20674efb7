"""HealthBench prompts with physicians' rubrics, in the three layouts in use.

    original JSONL    prompt_id, prompt, rubrics[{criterion, points, tags[str]}],
                      example_tags, ideal_completions_data, canary
    verl Parquet, a   prompt, reward_model{rubrics[{criterion, points, tags[str]}]}, data_source,
                      ability, extra_info without an id
    verl Parquet, b   the same, with tags{axis, cluster, level} and
                      extra_info.healthbench_prompt_id

How a row is read:

1. The sign of `points` is this format's documented polarity field: positive
   points are earned by meeting the criterion, negative ones are lost by meeting
   it. So points 5 is weight 5 with polarity 1, and points -5 is weight 5 with
   polarity -1. That is a rule of the format; wording is never looked at.
2. Criteria get the ids c1, c2, ... in order.
3. A row without an id gets one from the hash of its prompt, criteria and
   points, so it depends on neither the place of the row nor the layout.
4. Only the prompt and the rubric are kept: reference answers are not used, and
   the canary must not end up in anything that could be trained on.
5. A row that can't be used is dropped with the reason. One bad criterion drops
   the row, as the rest would be another rubric than the physicians'.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from rubric_rl.data.records import Dropped, LoadedPrompt, Problem, RawRow, parse_messages
from rubric_rl.rubrics.validation import build_rubric, describe_value
from rubric_rl.types import PromptRecord

JSONL_KEYS = ("prompt_id", "prompt", "rubrics")
PARQUET_COLUMNS = ("prompt", "reward_model")
DOMAIN = "health"

_STRUCT_TAGS = ("axis", "level", "cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """What is used of a row, the same for every layout."""

    prompt_id: str
    prompt: object
    rubrics: object


def parse_healthbench_jsonl(
    rows: Sequence[RawRow],
) -> tuple[tuple[LoadedPrompt, ...], tuple[Dropped, ...]]:
    """Prompts and dropped rows of the original layout, each in file order."""
    return _parse([(row, _jsonl_fields(row)) for row in rows])


def parse_healthbench_parquet(
    rows: Sequence[RawRow],
) -> tuple[tuple[LoadedPrompt, ...], tuple[Dropped, ...]]:
    """Prompts and dropped rows of either Parquet layout, each in file order."""
    return _parse([(row, _parquet_fields(row)) for row in rows])


def _parse(
    rows: Sequence[tuple[RawRow, _Fields]],
) -> tuple[tuple[LoadedPrompt, ...], tuple[Dropped, ...]]:
    loaded: dict[str, LoadedPrompt] = {}
    dropped: list[Dropped] = []
    for row, fields in rows:
        result = _load(row, fields)
        if isinstance(result, LoadedPrompt) and fields.prompt_id in loaded:
            first = loaded[fields.prompt_id].record.source
            result = _dropped(row, fields, Problem("the id occurs before", first))
        if isinstance(result, LoadedPrompt):
            loaded[fields.prompt_id] = result
        else:
            dropped.append(result)
    return tuple(loaded.values()), tuple(dropped)


def _load(row: RawRow, fields: _Fields) -> LoadedPrompt | Dropped:
    messages, problems = parse_messages(fields.prompt)
    if problems:
        return _dropped(row, fields, problems[0])
    criteria = _convert_criteria(fields.rubrics)
    if isinstance(criteria, Problem):
        return _dropped(row, fields, criteria)
    record = PromptRecord(
        prompt_id=fields.prompt_id,
        messages=messages,
        domain=DOMAIN,
        source=row.source,
        row_hash=row.row_hash,
    )
    rubric = build_rubric(fields.prompt_id, criteria, source=row.source)
    return LoadedPrompt(record=record, rubric=rubric, split=None)


def _dropped(row: RawRow, fields: _Fields, problem: Problem) -> Dropped:
    return Dropped(
        source=row.source, prompt_id=fields.prompt_id, reason=problem.what, detail=problem.where
    )


# ----------------------------------------------------------------------------
# Layouts


def _jsonl_fields(row: RawRow) -> _Fields:
    prompt, rubrics = row.value.get("prompt"), row.value.get("rubrics")
    prompt_id = row.value.get("prompt_id")
    return _fields(prompt_id, prompt, rubrics)


def _parquet_fields(row: RawRow) -> _Fields:
    rubrics = _member(row.value.get("reward_model"), "rubrics")
    prompt_id = _member(row.value.get("extra_info"), "healthbench_prompt_id")
    return _fields(prompt_id, row.value.get("prompt"), rubrics)


def _fields(prompt_id: object, prompt: object, rubrics: object) -> _Fields:
    has_id = isinstance(prompt_id, str) and prompt_id.strip()
    return _Fields(
        prompt_id=cast("str", prompt_id) if has_id else _derived_id(prompt, rubrics),
        prompt=prompt,
        rubrics=rubrics,
    )


def _member(struct: object, key: str) -> object:
    return cast("dict[str, object]", struct).get(key) if isinstance(struct, dict) else None


def _derived_id(prompt: object, rubrics: object) -> str:
    # Field by field: the order of keys and the form of tags differ between layouts.
    payload = [
        [[_member(item, "role"), _member(item, "content")] for item in _items(prompt)],
        [[_member(item, "criterion"), _member(item, "points")] for item in _items(rubrics)],
    ]
    text = json.dumps(payload, ensure_ascii=True, default=repr)
    return f"hb-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


# ----------------------------------------------------------------------------
# Criteria


def _convert_criteria(rubrics: object) -> list[dict[str, object]] | Problem:
    """The criteria in the form that `build_rubric` takes, or the first problem."""
    items = _items(rubrics)
    if not items:
        return Problem("no criteria")
    criteria: list[dict[str, object]] = []
    for position, item in enumerate(items, start=1):
        criterion = _convert_criterion(item, f"c{position}")
        if isinstance(criterion, Problem):
            return criterion
        criteria.append(criterion)
    if all(criterion["polarity"] == -1 for criterion in criteria):
        return Problem("no criterion with positive points")
    return criteria


def _convert_criterion(item: object, cid: str) -> dict[str, object] | Problem:
    text, points = _member(item, "criterion"), _member(item, "points")
    if not isinstance(text, str) or not text.strip():
        return Problem("a criterion is blank", cid)
    if isinstance(points, bool) or not isinstance(points, int | float) or not _is_finite(points):
        return Problem("points are not a finite number", f"{cid}: {describe_value(points)}")
    if points == 0:
        return Problem("points are 0", cid)
    tags = _convert_tags(_member(item, "tags"))
    return {
        "id": cid,
        "text": text,
        "weight": abs(points),
        "polarity": 1 if points > 0 else -1,
        "tags": tags,
    }


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _convert_tags(tags: object) -> list[str]:
    if isinstance(tags, dict):
        values = [(key, _member(tags, key)) for key in _STRUCT_TAGS]
        return [f"{key}:{value}" for key, value in values if value]
    return [tag for tag in _items(tags) if isinstance(tag, str) and tag.strip()]
