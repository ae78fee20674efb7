"""Canonical records are taken whole, or the file is refused with all its problems."""

from pathlib import Path
from typing import Any

import pytest

from rubric_rl.data.canonical import parse_canonical
from rubric_rl.data.records import LoadedPrompt, RawRow
from rubric_rl.errors import DataError
from rubric_rl.types import Criterion, Lineage, Message

PATH = Path("set.jsonl")


def record(**changes: Any) -> dict[str, Any]:
    base = {
        "id": "h1",
        "domain": "health",
        "messages": [{"role": "user", "content": "How long should I nap?"}],
        "rubric": {"criteria": [{"id": "c1", "text": "Gives a time.", "weight": 3}]},
    }
    return base | changes


def parse(*values: dict[str, Any]) -> list[LoadedPrompt]:
    rows = [
        RawRow(source=f"set.jsonl, line {line}", value=value)
        for line, value in enumerate(values, start=1)
    ]
    return parse_canonical(rows, PATH)


def problems_of(*values: dict[str, Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        parse(*values)
    first, *lines = str(caught.value).splitlines()
    assert first == "set.jsonl is not a valid prompt file:"
    return [line.strip() for line in lines]


def test_a_record_becomes_a_prompt_with_its_rubric() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Nap?"},
    ]
    value = record(messages=messages, split="eval", reference="Twenty minutes.")
    (loaded,) = parse(value)
    assert loaded.split == "eval"
    assert loaded.record.prompt_id == loaded.rubric.prompt_id == "h1"
    assert loaded.record.domain == "health"
    assert loaded.record.reference == "Twenty minutes."
    assert loaded.record.source == "set.jsonl, line 1"
    assert loaded.record.row_hash == RawRow(source="", value=value).row_hash
    assert loaded.record.messages[2] == Message(role="assistant", content="Hello")
    assert loaded.rubric.criteria == (Criterion(cid="c1", text="Gives a time.", weight=3.0),)
    assert loaded.rubric.version == 0


def test_records_keep_file_order_and_may_lack_a_split() -> None:
    loaded = parse(record(id="b"), record(id="a"))
    assert [(prompt.record.prompt_id, prompt.split) for prompt in loaded] == [
        ("b", None),
        ("a", None),
    ]


@pytest.mark.parametrize("changes", [{}, {"reference": None}])
def test_a_record_may_lack_a_reference(changes: dict[str, Any]) -> None:
    assert parse(record(**changes))[0].record.reference is None


def test_a_criterion_may_say_its_kind_axis_and_lineage() -> None:
    raw = {
        "id": "c2",
        "text": "Scolds.",
        "weight": 1,
        "polarity": -1,
        "kind": "veto",
        "axis": "tone",
        "lineage": {"op": "split", "from": ["c1"]},
    }
    earned = {"id": "c1", "text": "Gives a time.", "weight": 3}
    (loaded,) = parse(record(rubric={"criteria": [earned, raw]}))
    assert loaded.rubric.criteria[1] == Criterion(
        cid="c2",
        text="Scolds.",
        weight=1.0,
        polarity=-1,
        kind="veto",
        axis="tone",
        lineage=Lineage(op="split", sources=("c1",)),
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": " "}, "id is blank"),
        ({"id": 5}, "id: got a number (5), want a string"),
        ({"domain": None}, "domain: got null, want a string"),
        ({"split": "test"}, "split: got a string ('test'), want 'train' or 'eval'"),
        ({"reference": "\n"}, "reference is blank"),
        ({"reference": ["x"]}, "reference: got a list (['x']), want a string"),
        ({"mesages": []}, "unknown key 'mesages': did you mean 'messages'?"),
        (
            {"canary": "x"},
            "unknown key 'canary': known keys: id, domain, split, messages, reference, rubric",
        ),
        ({"messages": []}, "messages: the prompt is empty"),
        ({"messages": "Hi"}, "messages: the prompt is a string ('Hi'), want a list of messages"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages: message 1: unknown role 'tool', want one of system, user, assistant",
        ),
        (
            {"messages": [{"role": "user", "content": "\n"}]},
            "messages: message 1: content is blank",
        ),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            "messages: message 1: content is a list (['x']), want a string",
        ),
        (
            {"messages": ["x"]},
            "messages: message 1: got a string ('x'), want an object with role and content",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "contents": 1}]},
            "messages: message 1: unknown key 'contents': did you mean 'content'?",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "messages: the last message is from 'assistant', want 'user'",
        ),
        ({"rubric": []}, "rubric: got a list ([]), want an object with criteria"),
        (
            {"rubric": {"criteria": []}},
            "rubric: the rubric is empty: give it at least one criterion",
        ),
        (
            {"rubric": {"criteria": [{"id": "c", "text": "t", "weight": 0.0}]}},
            "rubric: criterion 1 ('c'): weight: got 0.0, want a number above 0 (weightless "
            "criteria can't be earned; a criterion that is bad to meet has polarity -1)",
        ),
    ],
)
def test_a_bad_record_is_refused_with_its_line_and_reason(
    changes: dict[str, Any], problem: str
) -> None:
    good = record(id="other")
    assert problems_of(good, record(**changes)) == [f"set.jsonl, line 2: {problem}"]


@pytest.mark.parametrize("key", ["id", "domain", "messages", "rubric"])
def test_a_missing_key_is_named(key: str) -> None:
    value = record()
    del value[key]
    assert problems_of(value) == [f"set.jsonl, line 1: {key} is missing"]


def test_a_misspelt_rubric_key_is_named_with_the_nearest() -> None:
    assert problems_of(record(rubric={"criterias": []})) == [
        "set.jsonl, line 1: rubric: unknown key 'criterias': did you mean 'criteria'?",
        "set.jsonl, line 1: rubric: criteria: got null, want a list of objects",
    ]


def test_a_duplicate_id_is_refused_with_both_lines() -> None:
    assert problems_of(record(), record(id="h2"), record()) == [
        "set.jsonl, line 3: id 'h1' is taken by set.jsonl, line 1"
    ]


def test_all_problems_of_a_file_are_listed_up_to_twenty() -> None:
    problems = problems_of(*(record(id=f"h{i}", split="dev") for i in range(25)))
    assert len(problems) == 21
    assert problems[19].startswith("set.jsonl, line 20: split")
    assert problems[20] == "... and 5 more"
