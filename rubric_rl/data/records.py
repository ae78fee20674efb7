"""What the readers of prompt files hand on, whatever the layout of the file.

RawRow --canonical, healthbench--> LoadedPrompt | Dropped
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

from rubric_rl.rubrics.validation import describe_value
from rubric_rl.types import Message, PromptRecord, Rubric

Split = Literal["train", "eval"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row as its file holds it."""

    source: str
    """File and line or row, such as `prompts.jsonl, line 3`. Lines count from 1, rows from 0."""
    value: dict[str, object]

    @property
    def row_hash(self) -> str:
        """SHA-256 (hex) of the content; the order of keys and white space don't matter."""
        # Parquet has types that JSON lacks (dates, bytes): their repr identifies them as well.
        text = json.dumps(self.value, sort_keys=True, ensure_ascii=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPrompt:
    """A prompt, its rubric, and the split that its row is marked with, if any."""

    record: PromptRecord
    rubric: Rubric
    split: Split | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A row that is left out. Rows left out for one cause share the `reason`."""

    source: str
    prompt_id: str
    reason: str
    detail: str = ""
    """What is particular to this row: the place in it, or a number."""


class Problem(NamedTuple):
    """What is wrong with a row, and where in it."""

    what: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def parse_messages(raw: object) -> tuple[tuple[Message, ...], list[Problem]]:
    """The conversation, and every problem with it; use it only if there is none.

    It must not be empty, have known roles and no blank turn, and end with the user's.
    Keys other than `role` and `content` are left to the caller.
    """
    if not isinstance(raw, list):
        return (), [Problem(f"the prompt is {describe_value(raw)}, want a list of messages")]
    raws = cast("list[object]", raw)
    if not raws:
        return (), [Problem("the prompt is empty")]
    messages: list[Message] = []
    problems: list[Problem] = []
    for position, item in enumerate(raws, start=1):
        message, problem = _parse_message(item)
        if problem is not None:
            problems.append(Problem(problem, f"message {position}"))
        if message is not None:
            messages.append(message)
    if not problems and messages[-1].role != "user":
        problems.append(Problem(f"the last message is from {messages[-1].role!r}, want 'user'"))
    return tuple(messages), problems


def _parse_message(raw: object) -> tuple[Message | None, str | None]:
    if not isinstance(raw, dict):
        return None, f"got {describe_value(raw)}, want an object with role and content"
    fields = cast("dict[str, object]", raw)
    role, content = fields.get("role"), fields.get("content")
    if role not in get_args(Role):
        return None, f"unknown role {role!r}, want one of {', '.join(get_args(Role))}"
    if not isinstance(content, str):
        return None, f"content is {describe_value(content)}, want a string"
    if not content.strip():
        return None, "content is blank"
    return Message(role=cast("Role", role), content=content), None
