"""JunkaiZ/Rubrics: weights above 0, all good to meet, sums compared."""

from pathlib import Path
from typing import Any

import pytest

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.junkaiz import read_junkaiz
from rubric_rl.data.records import RawRow
from rubric_rl.types import Criterion

RUBRICS = [
    {"criterion": "Advises a fixed bedtime.", "weight": 3},
    {"criterion": "Avoids naming a pill.", "weight": 1},
]


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "prompt": "How do I sleep better?",
        "rubrics": RUBRICS,
        "number_of_criteria": 2,
        "total_weight": 4,
    }
    return base | changes


def read(*values: dict[str, Any], domain: str | None = None) -> Imported:
    rows = [RawRow(source=f"row {i}", value=value) for i, value in enumerate(values)]
    return read_junkaiz(rows, ReadOptions(path=Path("a.jsonl"), domain=domain))


def test_a_row_becomes_a_prompt_and_all_is_good_to_meet() -> None:
    imported = read(row())
    (loaded,) = imported.loaded
    assert loaded.record.messages[0].content == "How do I sleep better?"
    assert (loaded.record.domain, loaded.record.reference) == ("junkaiz", None)
    assert loaded.record.prompt_id.startswith("junkaiz-")
    assert loaded.record.row_hash == RawRow(source="", value=row()).row_hash
    assert loaded.rubric.criteria == (
        Criterion(cid="c1", text="Advises a fixed bedtime.", weight=3.0),
        Criterion(cid="c2", text="Avoids naming a pill.", weight=1.0),
    )
    assert (imported.dropped, imported.doubts) == ((), ())


def test_the_set_is_named_by_the_option_domain() -> None:
    assert read(row(), domain="health").loaded[0].record.domain == "health"


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"number_of_criteria": 7}, "number_of_criteria is 7, but the criteria give 2"),
        ({"total_weight": 3.5}, "total_weight is 3.5, but the criteria give 4"),
    ],
)
def test_a_sum_that_differs_is_a_doubt(changes: dict[str, Any], doubt: str) -> None:
    imported = read(row(**changes))
    assert len(imported.loaded) == 1
    assert [(d.cid, d.what) for d in imported.doubts] == [(None, doubt)]


@pytest.mark.parametrize("missing", [None, float("nan"), "four"])
def test_sums_that_are_not_stated_are_no_doubt(missing: object) -> None:
    assert read(row(number_of_criteria=missing, total_weight=missing)).doubts == ()


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"prompt": ""}, "content is blank", "message 1"),
        ({"rubrics": None}, "no criteria", ""),
        ({"rubrics": [{"criterion": "x", "weight": 0}]}, "the weight is 0", "c1"),
        (
            {"rubrics": [RUBRICS[0], {"criterion": "x", "weight": -1}]},
            "a weight is below 0, and the format has no polarity",
            "c2",
        ),
        ({"rubrics": [{"weight": 1}]}, "a criterion is blank", "c1"),
        ({"rubrics": ["x"]}, "a criterion is blank", "c1"),
    ],
)
def test_an_unusable_row_is_dropped_with_the_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    imported = read(row(), row(**changes))
    assert len(imported.loaded) == 1
    (dropped,) = imported.dropped
    assert (dropped.source, dropped.reason, dropped.detail) == ("row 1", reason, detail)
