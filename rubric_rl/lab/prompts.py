"""The laboratory's questions: each topic in several wordings, some of them held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.data.export import export_prompts
from rubric_rl.data.records import LoadedPrompt, Split
from rubric_rl.lab.topics import HELD_OUT_WORDINGS, TOPICS, WORDINGS, Topic
from rubric_rl.types import Message, PromptRecord, Rubric


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question on a topic."""

    topic: Topic
    prompt_id: str
    text: str
    split: Split


def questions() -> tuple[Question, ...]:
    """All of them, in a fixed order."""
    return tuple(
        Question(
            topic=topic,
            prompt_id=f"{topic.name}-{number}",
            text=wording.format(goal=topic.goal),
            split="eval" if number in HELD_OUT_WORDINGS else "train",
        )
        for topic in TOPICS
        for number, wording in enumerate(WORDINGS)
    )


def write_prompts(rubrics: Mapping[str, Rubric], path: Path) -> None:
    """The canonical prompt file with these rubrics, by prompt id."""
    export_prompts(
        [
            LoadedPrompt(record=_record(question), rubric=rubrics[question.prompt_id], split=split)
            for question in questions()
            if (split := question.split)
        ],
        path,
        "canonical",
    )


def _record(question: Question) -> PromptRecord:
    return PromptRecord(
        prompt_id=question.prompt_id,
        messages=(Message(role="user", content=question.text),),
        domain=question.topic.name,
        source="lab",
        row_hash=hashlib.sha256(f"{question.prompt_id} {question.text}".encode()).hexdigest(),
    )
