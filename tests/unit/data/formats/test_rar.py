"""RaR: the prefix is the type, the type is the polarity, and what speaks against it is listed."""

from pathlib import Path
from typing import Any

import pytest

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.rar import read_rar
from rubric_rl.data.records import RawRow
from rubric_rl.types import Criterion


def item(description: str, weight: object = 5, title: object = "Rest") -> dict[str, Any]:
    return {"title": title, "description": description, "weight": weight}


GOOD = item("Essential Criteria: Advises rest.")


def row(*rubric: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {
        "question": "My ankle is swollen. What now?",
        "reference_answer": "Rest and ice.",
        "question_source": "made up",
        "rubric": list(rubric),
        "rubric_list": [],
        "rubric_count": len(rubric),
    }
    return base | changes


def read(*values: dict[str, Any], **options: Any) -> Imported:
    rows = [RawRow(source=f"row {i}", value=value) for i, value in enumerate(values)]
    return read_rar(rows, ReadOptions(path=Path("rar.jsonl"), **options))


def criterion(description: str, weight: object = 5, **options: Any) -> Criterion:
    """The one criterion beside a good one."""
    (loaded,) = read(row(GOOD, item(description, weight)), **options).loaded
    return loaded.rubric.criteria[1]


def doubts_of(description: str, weight: object, **options: Any) -> list[tuple[str | None, str]]:
    imported = read(row(GOOD, item(description, weight)), **options)
    assert len(imported.loaded) == 1
    return [(doubt.cid, doubt.what) for doubt in imported.doubts]


def test_a_row_becomes_a_prompt_with_its_reference_apart() -> None:
    value = row(GOOD)
    imported = read(value)
    (loaded,) = imported.loaded
    assert [m.content for m in loaded.record.messages] == ["My ankle is swollen. What now?"]
    assert loaded.record.reference == "Rest and ice."
    assert (loaded.record.domain, loaded.split) == ("rar", None)
    assert loaded.record.row_hash == RawRow(source="", value=value).row_hash
    assert loaded.rubric.criteria == (
        Criterion(
            cid="c1", text="Advises rest.", weight=5.0, tags=("type:essential", "title:Rest")
        ),
    )
    assert (imported.dropped, imported.doubts) == ((), ())


@pytest.mark.parametrize(
    ("description", "weight", "text", "polarity", "tag"),
    [
        ("Essential Criteria: Says ice.", 5, "Says ice.", 1, "type:essential"),
        ("important criteria:  Says ice.", 3, "Says ice.", 1, "type:important"),
        ("Optional Criterion: Says ice.", 1, "Says ice.", 1, "type:optional"),
        ("Pitfall Criteria: Says run.", -2, "Says run.", -1, "type:pitfall"),
    ],
)
def test_the_prefix_gives_type_and_polarity_and_is_cut_off(
    description: str, weight: int, text: str, polarity: int, tag: str
) -> None:
    found = criterion(description, weight)
    assert (found.text, found.polarity, found.weight) == (text, polarity, abs(weight))
    assert found.tags == (tag, "title:Rest")
    assert doubts_of(description, weight) == []


def test_essential_gates_only_with_the_option() -> None:
    description = "Essential Criteria: Advises rest."
    assert criterion(description).kind == "normal"
    assert criterion(description, essential_gates=True).kind == "essential"
    assert criterion("Important Criteria: Says ice.", essential_gates=True).kind == "normal"


@pytest.mark.parametrize(
    ("description", "weight", "polarity", "doubt"),
    [
        (
            "Pitfall Criteria: Says run.",
            2,
            -1,
            "type pitfall has the weight 2: kept as its type says",
        ),
        (
            "Important Criteria: Says ice.",
            -3,
            1,
            "type important has the weight -3: kept as its type says",
        ),
        ("Says ice.", 3, 1, "has no type: read as good to meet"),
    ],
)
def test_a_sign_that_contradicts_the_type_is_a_doubt_and_the_type_holds(
    description: str, weight: int, polarity: int, doubt: str
) -> None:
    assert criterion(description, weight).polarity == polarity
    assert doubts_of(description, weight) == [("c2", doubt)]


AVOIDANCE = [
    "Avoids naming a dose.",
    "The response avoids naming a dose.",
    "Refrains from blame.",
    "Should not name a dose.",
    "Does not confuse the ankle with the knee.",
    "Never blames the user.",
]
FAULTS = [
    "Does not mention rest.",
    "The answer fails to advise ice.",
    "Omits the time to rest.",
    "Ignores the swelling.",
    "Doesn't explain why.",
    "Incorrectly names the knee.",
]


@pytest.mark.parametrize("text", AVOIDANCE)
def test_a_pitfall_worded_as_avoidance_is_kept_and_listed(text: str) -> None:
    description = f"Pitfall Criteria: {text}"
    assert criterion(description, -1).polarity == -1
    ((cid, what),) = doubts_of(description, -1)
    assert cid == "c2"
    assert what.endswith("suggests that meeting it is good, but its polarity is -1")
    assert doubts_of(description, -1, pitfall_polarity=1) == []


@pytest.mark.parametrize("text", FAULTS)
def test_a_pitfall_worded_as_a_fault_is_listed_only_if_turned_around(text: str) -> None:
    description = f"Pitfall Criteria: {text}"
    assert doubts_of(description, -1) == []
    assert criterion(description, -1, pitfall_polarity=1).polarity == 1
    ((_, what),) = doubts_of(description, -1, pitfall_polarity=1)
    assert what.endswith("suggests that meeting it is bad, but its polarity is 1")


def test_wording_outside_a_pitfall_is_never_looked_at() -> None:
    assert doubts_of("Essential Criteria: Fails to mention rest.", 5) == []
    assert doubts_of("Important Criteria: Avoids naming a dose.", 3) == []


def test_another_count_than_stated_is_a_doubt_about_the_rubric() -> None:
    (doubt,) = read(row(GOOD, rubric_count=9)).doubts
    assert (doubt.cid, doubt.what) == (None, "rubric_count is 9, but there are 1 criteria")
    assert read(row(GOOD, rubric_count=float("nan"))).doubts == ()


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"question": " "}, "content is blank", "message 1"),
        ({"question": None}, "the prompt is null, want a list of messages", ""),
        ({"rubric": []}, "no criteria", ""),
        ({"rubric": "all good"}, "no criteria", ""),
        ({"rubric": [GOOD, item(" ")]}, "a criterion is blank", "c2"),
        ({"rubric": [GOOD, item("Optional Criteria: ")]}, "a criterion is blank", "c2"),
        ({"rubric": [GOOD, item("Optional Criteria: x", 0)]}, "the weight is 0", "c2"),
        (
            {"rubric": [item("Optional Criteria: x", None)]},
            "the weight is not a finite number",
            "c1: null",
        ),
        (
            {"rubric": [GOOD, item("Says run.", -1)]},
            "a criterion has no type and a weight below 0",
            "c2",
        ),
        ({"rubric": [item("Pitfall Criteria: x", -1)]}, "no criterion is good to meet", ""),
    ],
)
def test_an_unusable_row_is_dropped_with_the_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    imported = read(row(GOOD), row(GOOD, **changes))
    assert len(imported.loaded) == 1
    (dropped,) = imported.dropped
    assert (dropped.source, dropped.reason, dropped.detail) == ("row 1", reason, detail)
    assert imported.doubts == ()


def test_the_id_depends_on_content_and_a_repeated_row_is_dropped() -> None:
    imported = read(row(GOOD), row(GOOD, GOOD), row(GOOD))
    first, second = (prompt.record.prompt_id for prompt in imported.loaded)
    assert first != second
    assert first.startswith("rar-")
    assert [(d.source, d.prompt_id, d.reason, d.detail) for d in imported.dropped] == [
        ("row 2", first, "the id occurs before", "row 0")
    ]
    assert read(row(GOOD, GOOD), row(GOOD)).loaded[1].record.prompt_id == first


def test_a_rubric_in_a_string_of_json_is_read() -> None:
    import json

    (loaded,) = read(row(GOOD, rubric=json.dumps([GOOD]))).loaded
    assert loaded.rubric.criteria[0].text == "Advises rest."
