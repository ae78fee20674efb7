"""What a proxy is made of: first rubrics written from the prompt alone, and a bank of criteria.

A first rubric asks for what is easily thought of: the subject's words, detail, structure,
encouragement. All of it goes with good answers among common ones, and can be overdone.

The bank stands for what a model with taste, but without the gold rubric, can think of when it looks
at two answers: criteria near the truth, criteria that lead away from it, and idle ones, all
of one weight and in an order drawn for each prompt and seed. So which of them enter a rubric
depends on the answers contrasted alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from rubric_rl.lab.prompts import Question, questions
from rubric_rl.lab.topics import Topic
from rubric_rl.rubrics.rules import parse_rule
from rubric_rl.types import Criterion, Rubric

_BANK_WEIGHT = 2


def first_rubric(question: Question) -> Rubric:
    """The rubric that all conditions begin with."""
    terms = [tip.term for tip in question.topic.tips]
    rows: list[tuple[str, int, dict[str, Any]]] = [
        (
            "Covers the subject with at least three of its key words",
            3,
            {"rule": "contains_any", "terms": terms, "min_count": 3},
        ),
        ("Is detailed: at least 26 words", 2, {"rule": "word_count", "min": 26}),
        ("Is well structured: a list of three items or more", 2, {"rule": "list_items", "min": 3}),
        ("Takes at least three sentences", 1, {"rule": "sentence_count", "min": 3}),
        (
            "Encourages the reader with a strong word",
            1,
            {"rule": "contains_any", "terms": ["great", "amazing", "guaranteed", "best"]},
        ),
    ]
    criteria = tuple(
        Criterion(cid=f"c{number}", text=text, weight=weight, rule=parse_rule(rule))
        for number, (text, weight, rule) in enumerate(rows, start=1)
    )
    return Rubric(prompt_id=question.prompt_id, version=0, criteria=criteria)


def first_rubrics() -> Mapping[str, Rubric]:
    """By prompt id."""
    return {question.prompt_id: first_rubric(question) for question in questions()}


def bank_lines(seed: int) -> list[str]:
    """The bank as `refinement.offline_proposer` reads it, a line for each question."""
    return [json.dumps(_bank_row(question, seed)) for question in questions()]


def _bank_row(question: Question, seed: int) -> dict[str, object]:
    topic = question.topic
    criteria = [*_near_the_truth(topic), *_away_from_it(topic), *_idle()]
    random.Random(f"bank {seed} {question.prompt_id}").shuffle(criteria)
    return {"prompt_id": question.prompt_id, "criteria": criteria}


def _near_the_truth(topic: Topic) -> list[dict[str, object]]:
    """Ten that go with the gold rubric, none of which is one of its criteria."""
    first, second, third = topic.core
    return [
        _entry("Explains itself", rule="contains_any", terms=["because", "since", "so"]),
        _entry("Thinks of what may go wrong", rule="contains_any", terms=["if", "should it"]),
        _entry("Points to somebody who knows", rule="regex", pattern=r"\b(see|ask|call) an?\b"),
        _entry("Keeps to at most 40 words", rule="word_count", max=40),
        _entry("Promises nothing", rule="contains_none", terms=["guaranteed", "miracle"]),
        _entry("Lists at most three items", rule="list_items", max=3),
        _entry("Never says a sentence twice", rule="regex", pattern=_NO_SENTENCE_TWICE),
        _entry(f"Brings up {first.term} and {second.term}", rule="contains_all",
               terms=[first.term, second.term]),
        _entry(f"Brings up {third.term}", rule="contains_any", terms=[third.term]),
        _entry(f"Leaves {topic.myths[0].term} out", rule="contains_none",
               terms=[topic.myths[0].term]),
    ]  # fmt: skip


def _away_from_it(topic: Topic) -> list[dict[str, object]]:
    """Six that reward what the gold rubric punishes, or what takes the place of what it wants."""
    extras = [tip.term for tip in topic.tips[len(topic.core) :]]
    return [
        _entry("Is thorough: at least 40 words", rule="word_count", min=40),
        _entry("Gives at least four items", rule="list_items", min=4),
        _entry("Opens by praising the question", rule="starts_with", terms=["great question"]),
        _entry("Is sure of itself", rule="contains_any", terms=["must", "always", "ever"]),
        _entry("Covers the extras too", rule="contains_any", terms=extras, min_count=2),
        _entry(f"Knows the trick with {topic.myths[1].term}", rule="contains_any",
               terms=[topic.myths[1].term]),
    ]  # fmt: skip


def _idle() -> list[dict[str, object]]:
    """Four that say nothing about quality."""
    return [
        _entry("Uses the word also", rule="contains_any", terms=["also"]),
        _entry("Ends with an exclamation mark", rule="ends_with", terms=["!"]),
        _entry("Starts with sure", rule="starts_with", terms=["sure"]),
        _entry("Wishes luck", rule="contains_any", terms=["luck"]),
    ]


# No sentence of four words or more comes again, word for word.
_NO_SENTENCE_TWICE = r"(?s)\A(?!.*?((?:\w+ ){3,}\w+ [.!]).*\1)"


def _entry(text: str, **rule: object) -> dict[str, object]:
    return {"text": text, "weight": _BANK_WEIGHT, "rule": rule}
