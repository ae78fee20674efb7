"""OpenRubrics: the text is cut at its numbers, and weights are the user's to give."""

from pathlib import Path
from typing import Any

import pytest

from rubric_rl.data.formats.imported import Imported, ReadOptions, TypeWeights
from rubric_rl.data.formats.openrubrics import read_openrubrics
from rubric_rl.data.records import RawRow
from rubric_rl.errors import ConfigError
from rubric_rl.types import Criterion

RUBRIC = """\
1. The answer has two parts. [Hard Rule]
2. The answer doesn't ramble. [Principle]
"""
WEIGHTS = TypeWeights(hard=3.0, principle=0.5)


def row(rubric: object = RUBRIC, **changes: Any) -> dict[str, Any]:
    base = {
        "instruction": "Write a letter in two parts.",
        "response_a": "Dear all",
        "response_b": "Hello",
        "winner": "a",
        "rubric": rubric,
        "source": "made up",
    }
    return base | changes


def read(
    *values: dict[str, Any], weights: TypeWeights | None = WEIGHTS, **options: Any
) -> Imported:
    rows = [RawRow(source=f"row {i}", value=value) for i, value in enumerate(values)]
    return read_openrubrics(rows, ReadOptions(path=Path("a.jsonl"), weights=weights, **options))


def texts_of(rubric: str) -> list[str]:
    (loaded,) = read(row(rubric)).loaded
    return [criterion.text for criterion in loaded.rubric.criteria]


def test_a_row_becomes_a_prompt_with_the_weights_that_were_given() -> None:
    imported = read(row())
    (loaded,) = imported.loaded
    assert loaded.record.messages[0].content == "Write a letter in two parts."
    assert (loaded.record.domain, loaded.record.reference) == ("openrubrics", None)
    assert loaded.rubric.criteria == (
        Criterion(cid="c1", text="The answer has two parts.", weight=3.0, tags=("type:hard_rule",)),
        Criterion(
            cid="c2", text="The answer doesn't ramble.", weight=0.5, tags=("type:principle",)
        ),
    )
    assert (imported.dropped, imported.doubts) == ((), ())
    assert "Dear all" not in repr(loaded)


def test_without_weights_the_file_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"a.jsonl: .*no weights.*--option weights=hard=2,princ"):
        read(row(), weights=None)


def test_a_hard_rule_gates_only_with_the_option() -> None:
    assert {c.kind for c in read(row()).loaded[0].rubric.criteria} == {"normal"}
    (loaded,) = read(row(), essential_gates=True).loaded
    assert [criterion.kind for criterion in loaded.rubric.criteria] == ["essential", "normal"]


@pytest.mark.parametrize(
    "rubric",
    [
        "1. One. [Hard Rule]\n2. Two. [Principle]",
        "1) One. [hard rule]\r\n2) Two. [PRINCIPLE]\r\n",
        "  1. One.   [Hard_Rule].\n\n  2. Two.\n     [Principle]  \n",
        "**1.** One. **[Hard Rule]**\n**2.** Two. **[Principle]**",
    ],
)
def test_items_are_found_however_they_are_set(rubric: str) -> None:
    assert texts_of(rubric) == ["One.", "Two."]


def test_an_item_may_run_over_lines_and_hold_numbers_of_its_own() -> None:
    rubric = (
        "1. Has parts:\n   1. a greeting\n   - 2024. a date [Hard Rule]\n2. Is kind. [Principle]"
    )
    assert texts_of(rubric) == ["Has parts:\n   1. a greeting\n   - 2024. a date", "Is kind."]


def test_ten_and_more_items_stay_in_order() -> None:
    rubric = "\n".join(f"{n}. Item {n}. [Principle]" for n in range(1, 13))
    assert texts_of(rubric) == [f"Item {n}." for n in range(1, 13)]


def test_text_before_the_first_item_is_left_out_and_listed() -> None:
    imported = read(row(f"Rubric:\n{RUBRIC}"))
    assert len(imported.loaded[0].rubric.criteria) == 2
    assert [(d.cid, d.what) for d in imported.doubts] == [
        (None, "text before the first item of the rubric is left out")
    ]


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"instruction": " "}, "content is blank", "message 1"),
        ({"rubric": None}, "no criteria", ""),
        ({"rubric": "Be kind. [Principle]"}, "the rubric has no numbered items", ""),
        (
            {"rubric": "1. One. [Hard Rule]\n2. Two."},
            "an item doesn't end with [Hard Rule] or [Principle]",
            "c2",
        ),
        (
            {"rubric": f"{RUBRIC}\nNote: be fair."},
            "an item doesn't end with [Hard Rule] or [Principle]",
            "c2",
        ),
        ({"rubric": "1. [Hard Rule]"}, "a criterion is blank", "c1"),
    ],
)
def test_an_unusable_row_is_dropped_with_the_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    imported = read(row(), row(**changes))
    assert len(imported.loaded) == 1
    (dropped,) = imported.dropped
    assert (dropped.source, dropped.reason, dropped.detail) == ("row 1", reason, detail)


@pytest.mark.parametrize(
    "rubric",
    [
        "1. One. [Hard Rule] 2. Two. [Principle]",
        "1. One. [Hard Rule]\n3. Three. [Principle]",
        "1. One. [Hard Rule]\n- Two. [Principle]",
    ],
)
def test_items_that_can_not_be_told_apart_drop_the_row_and_are_never_merged(rubric: str) -> None:
    imported = read(row(rubric))
    assert imported.loaded == ()
    assert imported.dropped[0].reason.startswith("an item holds another one")
