"""Rubrics are accepted whole or refused with every problem at once."""

import re
from typing import Any

import pytest

from rubric_rl.errors import DataError
from rubric_rl.rubrics.rules import WordCount
from rubric_rl.rubrics.validation import build_rubric
from rubric_rl.types import Criterion, Rubric


def criterion(**changes: Any) -> dict[str, Any]:
    return {"id": "c1", "text": "Names a dose.", "weight": 2} | changes


def problems_of(raw: object) -> str:
    with pytest.raises(DataError) as caught:
        build_rubric("p1", raw, source="set.jsonl, line 4")
    return str(caught.value)


def test_a_full_criterion_becomes_a_typed_one() -> None:
    raw = criterion(
        polarity=-1, rule={"rule": "word_count", "max": 9}, tags=["axis:style", "level:example"]
    )
    rubric = build_rubric("p1", [criterion(id="c0"), raw], version=3, source="set.jsonl, line 4")
    assert rubric == Rubric(
        prompt_id="p1",
        version=3,
        criteria=(
            Criterion(cid="c0", text="Names a dose.", weight=2.0),
            Criterion(
                cid="c1",
                text="Names a dose.",
                weight=2.0,
                polarity=-1,
                rule=WordCount(max=9),
                tags=("axis:style", "level:example"),
            ),
        ),
    )


def test_optional_keys_may_be_null() -> None:
    rubric = build_rubric("p1", [criterion(rule=None, tags=None)], source="s")
    assert rubric.criteria == (Criterion(cid="c1", text="Names a dose.", weight=2.0),)


def test_integer_and_float_weights_have_one_content_hash() -> None:
    three = build_rubric("p1", [criterion(weight=3)], source="s")
    assert three.rubric_id == build_rubric("p1", [criterion(weight=3.0)], source="s").rubric_id


def test_every_problem_is_listed_at_once_with_its_place() -> None:
    message = problems_of(
        [
            criterion(id="c1", wieght=3),
            criterion(id="c1", text="  "),
            {"id": "c3", "text": "t"},
            criterion(id="c4", weight=0, polarity=2),
            criterion(id="c5", rule={"rule": "contains_any", "terms": []}),
            criterion(id=7, tags=["a", 1]),
            "just a string",
        ]
    )
    expected = [
        "criterion 1 ('c1'): unknown key 'wieght': did you mean 'weight'?",
        "criterion 2 ('c1'): text is blank",
        "criterion 3 ('c3'): weight is missing",
        "criterion 4 ('c4'): weight: got 0, want a number above 0 (weightless",
        "criterion 4 ('c4'): polarity: got a number (2), want 1 or -1",
        "criterion 5 ('c5'): rule check {'rule': 'contains_any', 'terms': []} is not valid",
        "criterion 6: id: got a number (7), want a string",
        "criterion 6: tags: got a list (['a', 1]), want a list of strings",
        "criterion 7: got a string ('just a string'), want an object",
        "id 'c1' occurs 2 times",
    ]
    assert message.startswith("set.jsonl, line 4: the rubric of prompt 'p1' is not valid:\n")
    lines = message.splitlines()[1:]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"  {start}"), line


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "the rubric is empty"),
        (None, "criteria: got null, want a list of objects"),
        ({"c1": 1}, "criteria: got an object"),
        ([criterion(weight=float("nan"))], "weight: got nan, want a finite number above 0"),
        ([criterion(weight=float("inf"))], "weight: got inf, want a finite number"),
        ([criterion(weight=10**400)], "weight: got inf, want a finite number"),
        ([criterion(weight=-2)], "weight: got -2, want a number above 0"),
        ([criterion(weight="2")], "weight: got a string ('2'), want a number above 0"),
        ([criterion(weight=True)], "weight: got a boolean (True), want a number above 0"),
        ([criterion(polarity=True)], "polarity: got a boolean (True), want 1 or -1"),
        ([criterion(polarity=None)], "polarity: got null, want 1 or -1"),
        ([criterion(rule={"rule": "regex", "pattern": "("})], "does not compile"),
        ([criterion(rule={"rule": "sings"})], "rules: contains_any"),
        ([criterion(tags="a")], "tags: got a string ('a'), want a list of strings"),
        ([criterion(zzz=1)], "unknown key 'zzz': known keys: id, text, weight, polarity, rule"),
        ([criterion(id="")], "id is blank"),
        ([criterion(polarity=-1)], "no criterion has polarity 1, so nothing can be earned"),
    ],
)
def test_a_bad_rubric_is_refused_with_its_reason(raw: object, reason: str) -> None:
    assert re.search(re.escape(reason), problems_of(raw))


def test_a_criterion_with_another_fault_still_counts_as_positive() -> None:
    message = problems_of([criterion(polarity=-1), criterion(id="c2", weight=0)])
    assert "nothing can be earned" not in message
