"""Rubrics are accepted whole or refused with every problem at once."""

import re
from typing import Any

import pytest

from rubric_rl.errors import DataError
from rubric_rl.rubrics.rules import WordCount
from rubric_rl.rubrics.validation import build_rubric
from rubric_rl.types import Criterion, Lineage, Rubric


def criterion(**changes: Any) -> dict[str, Any]:
    return {"id": "c1", "text": "Names a dose.", "weight": 2} | changes


def problems_of(raw: object) -> str:
    with pytest.raises(DataError) as caught:
        build_rubric("p1", raw, source="set.jsonl, line 4")
    return str(caught.value)


def test_a_full_criterion_becomes_a_typed_one() -> None:
    raw = criterion(
        polarity=-1,
        kind="veto",
        axis="safety",
        tags=["axis:style", "level:example"],
        rule={"rule": "word_count", "max": 9},
        lineage={"op": "merge", "from": ["c4", "c7"]},
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
                kind="veto",
                axis="safety",
                tags=("axis:style", "level:example"),
                rule=WordCount(max=9),
                lineage=Lineage(op="merge", sources=("c4", "c7")),
            ),
        ),
    )


def test_optional_keys_may_be_null() -> None:
    raw = criterion(rule=None, tags=None, axis=None, lineage=None)
    rubric = build_rubric("p1", [raw], source="s")
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
            criterion(id="c8", kind="vital", axis=" ", lineage={"op": "copy", "form": ["c1"]}),
            criterion(id="c9", kind="veto", lineage={"op": "add", "from": "c1"}),
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
        "criterion 8 ('c8'): kind: got a string ('vital'), want 'normal' or 'essential' or 'veto'",
        "criterion 8 ('c8'): axis is blank",
        "criterion 8 ('c8'): lineage: unknown key 'form': did you mean 'from'?",
        "criterion 8 ('c8'): lineage: op: got a string ('copy'), want 'add' or 'rewrite' or",
        "criterion 9 ('c9'): lineage: from: got a string ('c1'), want a list of strings",
        "criterion 9 ('c9'): kind 'veto' is for a criterion that is bad to meet, so its polarity "
        "must be -1, got 1 (the default)",
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
        ([criterion(zzz=1)], "unknown key 'zzz': known keys: id, text, weight, polarity, kind"),
        ([criterion(id="")], "id is blank"),
        ([criterion(polarity=-1)], "no criterion has polarity 1, so nothing can be earned"),
        ([criterion(polarity=-1, kind="veto")], "no criterion has polarity 1, so nothing can be"),
        ([criterion(kind=None)], "kind: got null, want 'normal' or"),
        ([criterion(kind=["veto"])], "kind: got a list (['veto']), want 'normal' or"),
        ([criterion(axis=3)], "axis: got a number (3), want a string"),
        ([criterion(lineage="add")], "lineage: got a string ('add'), want an object with op and"),
        ([criterion(lineage={})], "lineage: op: got null, want 'add' or"),
        ([criterion(lineage={"op": "add", "from": ["c2"]})], "from: op 'add' is for a criterion"),
        ([criterion(lineage={"op": "keep"})], "from: got 0 ids, op 'keep' needs at least 1"),
        (
            [criterion(lineage={"op": "merge", "from": ["c2"]})],
            "from: got 1 ids, op 'merge' needs at least 2",
        ),
        (
            [criterion(lineage={"op": "merge", "from": ["c2", "c2"]})],
            "from: ['c2', 'c2'] names an id more than once",
        ),
    ],
)
def test_a_bad_rubric_is_refused_with_its_reason(raw: object, reason: str) -> None:
    assert re.search(re.escape(reason), problems_of(raw))


def test_a_criterion_with_another_fault_still_counts_as_positive() -> None:
    message = problems_of([criterion(polarity=-1), criterion(id="c2", weight=0)])
    assert "nothing can be earned" not in message


@pytest.mark.parametrize(
    ("kind", "polarity", "wanted"), [("essential", -1, "good to meet"), ("veto", 1, "bad to meet")]
)
def test_a_gate_of_the_wrong_polarity_is_refused_and_of_the_right_one_accepted(
    kind: str, polarity: int, wanted: str
) -> None:
    wrong = criterion(id="c2", kind=kind, polarity=polarity)
    message = problems_of([criterion(), wrong])
    assert message.splitlines()[1:] == [
        f"  criterion 2 ('c2'): kind {kind!r} is for a criterion that is {wanted}, so its "
        f"polarity must be {-polarity}, got {polarity}"
    ]
    build_rubric("p1", [criterion(), wrong | {"polarity": -polarity}], source="s")


def test_a_polarity_that_is_no_polarity_is_one_problem_of_a_gate_and_not_two() -> None:
    lines = problems_of([criterion(), criterion(id="c2", kind="veto", polarity="no")]).splitlines()
    assert lines[1:] == ["  criterion 2 ('c2'): polarity: got a string ('no'), want 1 or -1"]


def test_kind_is_part_of_what_is_graded_and_axis_tags_and_lineage_are_not() -> None:
    plain = build_rubric("p1", [criterion()], source="s").rubric_id
    described = criterion(axis="tone", tags=["x"], lineage={"op": "add"})
    assert build_rubric("p1", [described], source="s").rubric_id == plain
    assert build_rubric("p1", [criterion(kind="normal")], source="s").rubric_id == plain
    assert build_rubric("p1", [criterion(kind="essential")], source="s").rubric_id != plain
