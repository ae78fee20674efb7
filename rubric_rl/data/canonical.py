"""The canonical prompt file: JSONL, one prompt with its rubric a line.

    {"id": "h001", "domain": "health", "split": "eval",
     "messages": [{"role": "user", "content": "How much water should I drink?"}],
     "rubric": {"criteria": [
        {"id": "c1", "text": "Gives an amount for a day.", "weight": 3,
         "rule": {"rule": "number_count", "min": 1}},
        {"id": "c2", "text": "Scolds the user.", "weight": 2, "polarity": -1}]}}

    id          string, unique in the file; samples, metrics and splits refer to it
    domain      string, free; groups prompts in reports
    split       optional, "train" or "eval"; without it data.eval_size decides
    messages    list, not empty, the last from the user
      role      "system", "user" or "assistant"
      content   string, not blank
    reference   optional string, not blank: an answer to compare with. A judge sees it
                if judge.llm.show_reference is set; the policy never does
    rubric      object with one key:
      criteria  list, not empty, at least one with polarity 1
        id        string, unique in the rubric, stable when the rubric is refined
        text      string, the statement to grade
        weight    number above 0: its share of the reward
        polarity  optional, 1 (meeting it is good, the default) or -1 (bad)
        kind      optional, "normal" (the default), "essential" or "veto", for the gated reward
        axis      optional string, the quality that it is about, for reports
        tags      optional list of strings, for reports
        rule      optional object: a check that is executed, see `rubrics.rules`;
                  without it the LLM judge decides
        lineage   optional object: how a refined rubric came by it, see `rubrics.validation`

Other keys are errors. The format is ours, so a file with a bad record is
refused as a whole, with all its problems at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from rubric_rl.data.reading import list_problems
from rubric_rl.data.records import LoadedPrompt, RawRow, Split, parse_messages
from rubric_rl.errors import DataError
from rubric_rl.rubrics.validation import (
    describe_value,
    parse_criteria,
    text_field,
    unknown_key_problems,
)
from rubric_rl.types import Criterion, Message, PromptRecord, Rubric

RECORD_KEYS = ("id", "domain", "split", "messages", "reference", "rubric")
_MESSAGE_KEYS = ("role", "content")
_RUBRIC_KEYS = ("criteria",)


def parse_canonical(rows: Sequence[RawRow], path: Path) -> list[LoadedPrompt]:
    """Every prompt of a file, in file order.

    Raises:
        DataError: lists the problems of the whole file, up to a limit, each
            with its line.
    """
    loaded: list[LoadedPrompt] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for row in rows:
        prompt, found = _parse_record(row)
        problems.extend(f"{row.source}: {problem}" for problem in found)
        prompt_id = prompt.record.prompt_id
        if prompt_id and prompt_id in seen:
            problems.append(f"{row.source}: id {prompt_id!r} is taken by {seen[prompt_id]}")
        seen.setdefault(prompt_id, row.source)
        loaded.append(prompt)
    if problems:
        raise DataError(f"{path} is not a valid prompt file:{list_problems(problems)}")
    return loaded


def _parse_record(row: RawRow) -> tuple[LoadedPrompt, list[str]]:
    """The prompt and every problem with it; it is complete only if there is none."""
    fields = row.value
    problems = unknown_key_problems(fields, RECORD_KEYS)
    prompt_id = text_field(fields, "id", problems)
    record = PromptRecord(
        prompt_id=prompt_id,
        messages=_messages(fields, problems),
        domain=text_field(fields, "domain", problems),
        source=row.source,
        row_hash=row.row_hash,
        reference=_reference(fields, problems),
    )
    split = _split(fields, problems)
    rubric = Rubric(prompt_id=prompt_id, version=0, criteria=_criteria(fields, problems))
    return LoadedPrompt(record=record, rubric=rubric, split=split), problems


def _split(fields: dict[str, object], problems: list[str]) -> Split | None:
    value = fields.get("split")
    if value is None or value in get_args(Split):
        return cast("Split | None", value)
    problems.append(f"split: got {describe_value(value)}, want 'train' or 'eval'")
    return None


def _reference(fields: dict[str, object], problems: list[str]) -> str | None:
    if fields.get("reference") is None:
        return None
    return text_field(fields, "reference", problems)


def _messages(fields: dict[str, object], problems: list[str]) -> tuple[Message, ...]:
    if "messages" not in fields:
        problems.append("messages is missing")
        return ()
    raw = fields["messages"]
    messages, found = parse_messages(raw)
    problems.extend(f"messages: {problem}" for problem in found)
    for position, item in enumerate(cast("list[object]", raw) if isinstance(raw, list) else []):
        if isinstance(item, dict):
            unknown = unknown_key_problems(cast("dict[str, object]", item), _MESSAGE_KEYS)
            problems.extend(f"messages: message {position + 1}: {problem}" for problem in unknown)
    return messages


def _criteria(fields: dict[str, object], problems: list[str]) -> tuple[Criterion, ...]:
    if "rubric" not in fields:
        problems.append("rubric is missing")
        return ()
    raw = fields["rubric"]
    if not isinstance(raw, dict):
        problems.append(f"rubric: got {describe_value(raw)}, want an object with criteria")
        return ()
    rubric = cast("dict[str, object]", raw)
    found = unknown_key_problems(rubric, _RUBRIC_KEYS)
    criteria, criteria_problems = parse_criteria(rubric.get("criteria"))
    problems.extend(f"rubric: {problem}" for problem in [*found, *criteria_problems])
    return criteria
