"""PRBench: the class picks the weight and the polarity; unused slots are no turns."""

from pathlib import Path
from typing import Any

import pytest

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.prbench import read_prbench
from rubric_rl.data.records import RawRow
from rubric_rl.types import Criterion, Message

NAN = float("nan")
FIELDS = (
    "critically_important_weight",
    "important_weight",
    "slightly_important_weight",
    "slightly_detrimental_weight",
    "detrimental_weight",
    "critically_detrimental_weight",
)


def item(weight_class: object = "important", weight: object = 5, **changes: Any) -> dict[str, Any]:
    """A criterion whose siblings' weights are left over and must not count."""
    stale = dict.fromkeys(FIELDS, 9)
    if isinstance(weight_class, str):
        stale[f"{weight_class.lower().replace(' ', '_')}_weight"] = weight
    annotations = {
        "criteria_category": "Practical Utility",
        "criteria_description": "Why it matters.",
        "weight_class": weight_class,
        "field_for_category": None,
        **stale,
    }
    return {"id": "x-1", "title": "Names the deadline.", "annotations": annotations} | changes


def row(*rubric: dict[str, Any], **changes: Any) -> dict[str, Any]:
    slots = {f"{name}_{n}": NAN for n in range(10) for name in ("prompt", "response", "model")}
    texts = {f"reference_texts_{n}": None for n in range(10)}
    base = {
        "task": "t-1",
        "turns": 1.0,
        "field": "Legal",
        "topic": "Leases",
        "scratchpad": "private notes",
        "rubric": list(rubric),
    }
    return base | slots | texts | {"prompt_0": "When must I give notice?"} | changes


def read(*values: dict[str, Any], **options: Any) -> Imported:
    rows = [RawRow(source=f"row {i}", value=value) for i, value in enumerate(values)]
    return read_prbench(rows, ReadOptions(path=Path("a.parquet"), **options))


def messages_of(**changes: Any) -> list[tuple[str, str]]:
    (loaded,) = read(row(item(), **changes)).loaded
    return [(message.role, message.content) for message in loaded.record.messages]


def test_a_row_becomes_a_prompt_with_title_class_and_category() -> None:
    imported = read(row(item()))
    (loaded,) = imported.loaded
    assert loaded.record.prompt_id == "t-1"
    assert loaded.record.messages == (Message(role="user", content="When must I give notice?"),)
    assert (loaded.record.domain, loaded.record.reference) == ("legal", None)
    assert loaded.rubric.criteria == (
        Criterion(
            cid="c1",
            text="Names the deadline.",
            weight=5.0,
            axis="Practical Utility",
            tags=("weight_class:important", "id:x-1"),
        ),
    )
    assert (imported.dropped, imported.doubts) == ((), ())


@pytest.mark.parametrize(
    ("weight_class", "weight", "polarity"),
    [
        ("critically important", 10, 1),
        ("important", 6, 1),
        ("Slightly  Important", 1.0, 1),
        ("slightly detrimental", -1, -1),
        ("detrimental", -5, -1),
        ("critically detrimental", -10, -1),
    ],
)
def test_the_class_picks_the_weight_and_the_polarity_past_stale_siblings(
    weight_class: str, weight: float, polarity: int
) -> None:
    normal = " ".join(weight_class.split())
    imported = read(row(item(), item(normal, weight)))
    criterion = imported.loaded[0].rubric.criteria[1]
    assert (criterion.weight, criterion.polarity) == (abs(weight), polarity)
    assert criterion.kind == "normal"
    assert f"weight_class:{normal.lower()}" in criterion.tags
    assert imported.doubts == ()


def test_critically_important_gates_only_with_the_option() -> None:
    rubric = (item("critically important", 9), item("important", 5))
    (loaded,) = read(row(*rubric), essential_gates=True).loaded
    assert [criterion.kind for criterion in loaded.rubric.criteria] == ["essential", "normal"]


@pytest.mark.parametrize(
    ("weight_class", "weight", "polarity"), [("detrimental", 5, -1), ("important", -5, 1)]
)
def test_a_sign_that_contradicts_the_class_is_a_doubt_and_the_class_holds(
    weight_class: str, weight: int, polarity: int
) -> None:
    imported = read(row(item(), item(weight_class, weight)))
    assert imported.loaded[0].rubric.criteria[1].polarity == polarity
    assert [(d.prompt_id, d.cid, d.what) for d in imported.doubts] == [
        ("t-1", "c2", f"is {weight_class} with the weight {weight}: kept as its class says")
    ]


def test_the_category_is_found_under_a_longer_name_too() -> None:
    annotations = item()["annotations"] | {
        "criteria_category": None,
        "legal_criteria_category": "Legal Accuracy",
    }
    (loaded,) = read(row(item(annotations=annotations))).loaded
    assert loaded.rubric.criteria[0].axis == "Legal Accuracy"


# ----------------------------------------------------------------------------
# Conversation


def test_turns_and_their_responses_are_the_conversation_up_to_the_last_prompt() -> None:
    assert messages_of(
        turns=2, response_0="In writing.", prompt_1="By when?", response_1="An answer of a model."
    ) == [
        ("user", "When must I give notice?"),
        ("assistant", "In writing."),
        ("user", "By when?"),
    ]


@pytest.mark.parametrize("unused", [None, NAN, "", "  "])
def test_slots_that_are_not_used_are_no_turns(unused: object) -> None:
    assert len(messages_of(prompt_1=unused, prompt_9=unused)) == 1


def test_reference_texts_stand_before_the_prompt_of_their_turn() -> None:
    found = messages_of(
        turns=2,
        reference_texts_0=["The lease.", " ", "The letter."],
        response_0="In writing.",
        prompt_1="By when?",
        reference_texts_1=[],
    )
    assert found[0][1] == (
        "Reference text 1:\nThe lease.\n\nReference text 2:\nThe letter.\n\n"
        "When must I give notice?"
    )
    assert found[2] == ("user", "By when?")


def test_the_experts_notes_are_not_kept() -> None:
    assert "private notes" not in repr(read(row(item())))


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"prompt_0": NAN}, "the prompt is empty", ""),
        (
            {"turns": 2, "prompt_2": "And then?"},
            "a prompt is missing between others",
            "turns [0, 2]",
        ),
        ({"turns": 3}, "turns is not the number of prompts", "3, not 1"),
        ({"turns": 2, "prompt_1": "By when?"}, "a turn is not a text", "response_0"),
        ({"turns": 1, "prompt_0": ["x"]}, "a turn is not a text", "prompt_0"),
        ({"rubric": None}, "no criteria", ""),
        ({"rubric": [item(title="")]}, "a criterion is blank", "c1"),
        (
            {"rubric": [item(), item("vital")]},
            "weight_class is not one of the format",
            "c2: a string ('vital')",
        ),
        ({"rubric": [item(None)]}, "weight_class is not one of the format", "c1: null"),
        (
            {"rubric": [item("important", NAN)]},
            "the weight of the class is not a finite number",
            "c1: a number (nan)",
        ),
        (
            {"rubric": [item("important", None)]},
            "the weight of the class is not a finite number",
            "c1: null",
        ),
        ({"rubric": [item("important", 0)]}, "the weight of the class is 0", "c1"),
        ({"rubric": [item("detrimental", -5)]}, "no criterion is good to meet", ""),
    ],
)
def test_an_unusable_row_is_dropped_with_the_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    imported = read(row(item()), row(item(), task="t-2", **changes))
    assert [prompt.record.prompt_id for prompt in imported.loaded] == ["t-1"]
    (dropped,) = imported.dropped
    assert (dropped.prompt_id, dropped.reason, dropped.detail) == ("t-2", reason, detail)


def test_a_task_that_comes_twice_is_dropped_the_second_time() -> None:
    imported = read(row(item()), row(item(), prompt_0="Else?"))
    assert [d.reason for d in imported.dropped] == ["the id occurs before"]
