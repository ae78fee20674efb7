"""RubricHub: two layouts, points of 0, and functions that are not run here."""

import json
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.rubrichub import read_rubrichub
from rubric_rl.data.records import RawRow
from rubric_rl.types import Criterion

CHAT = [{"role": "user", "content": "Name two herbs."}]


def item(criterion: str, points: object = 8, **tags: Any) -> dict[str, Any]:
    merged = {"function": "", "parameters": {"num": None}, "verifier": "llm"} | tags
    return {"criterion": criterion, "points": points, "tags": merged}


GOOD = item("Names two herbs.")


def row(*rubrics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {
        "prompt": CHAT,
        "data_source": "Writing",
        "ability": "Writing",
        "reward_model": {"style": "rubric", "ground_truth": "", "rubrics": list(rubrics)},
        "extra_info": {"prompt": CHAT},
        "Rubrics": [{"criterion": r["criterion"], "points": r["points"]} for r in rubrics],
    }
    return base | changes


def pipeline_row(*rubrics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    bare = [{"criterion": r["criterion"], "points": r["points"]} for r in rubrics]
    return {"question": "Name two herbs.", "id": "q-1", "rubrics": bare} | changes


def read(*values: dict[str, Any], domain: str | None = None) -> Imported:
    rows = [RawRow(source=f"row {i}", value=value) for i, value in enumerate(values)]
    return read_rubrichub(rows, ReadOptions(path=Path("a.parquet"), domain=domain))


def test_a_row_of_the_training_set_becomes_a_prompt() -> None:
    imported = read(row(GOOD))
    (loaded,) = imported.loaded
    assert loaded.record.messages[0].content == "Name two herbs."
    assert (loaded.record.domain, loaded.record.reference) == ("Writing", None)
    assert loaded.record.prompt_id.startswith("rubrichub-")
    assert loaded.rubric.criteria == (
        Criterion(cid="c1", text="Names two herbs.", weight=8.0, tags=("verifier:llm",)),
    )
    assert (imported.dropped, imported.doubts) == ((), ())


@pytest.mark.parametrize(
    "changes",
    [
        {"reward_model": json.dumps({"rubrics": [GOOD]})},
        {"reward_model": {"rubrics": json.dumps([GOOD])}},
        {"prompt": None, "messages": CHAT},
        {"prompt": json.dumps(CHAT)},
    ],
)
def test_copies_that_hold_json_or_name_the_prompt_otherwise_give_the_same(
    changes: dict[str, Any],
) -> None:
    (plain,) = read(row(GOOD)).loaded
    (other,) = read(row(GOOD, **changes)).loaded
    assert other.rubric == plain.rubric
    assert other.record.messages == plain.record.messages


def test_what_the_pipeline_writes_is_read_with_its_id() -> None:
    imported = read(pipeline_row(GOOD), pipeline_row(GOOD, id=7), pipeline_row(GOOD, id=""))
    ids = [prompt.record.prompt_id for prompt in imported.loaded]
    assert ids[:2] == ["q-1", "7"]
    assert ids[2].startswith("rubrichub-")
    assert imported.loaded[0].record.domain == "rubrichub"
    assert imported.loaded[0].rubric.criteria == (
        Criterion(cid="c1", text="Names two herbs.", weight=8.0),
    )


def test_a_function_is_a_doubt_and_kept_with_its_parameters_as_tags() -> None:
    rule = item(
        "paragraphs:two",
        function="ParagraphChecker",
        parameters={"num": 2.0, "keyword": None},
        verifier="rule",
    )
    imported = read(row(GOOD, rule))
    (loaded,) = imported.loaded
    assert loaded.rubric.criteria[1].tags == (
        "verifier:rule",
        "function:ParagraphChecker",
        'parameters:{"num": 2.0}',
    )
    assert loaded.rubric.criteria[1].rule is None
    assert [(d.cid, d.what) for d in imported.doubts] == [
        (
            "c2",
            "is meant for the function 'ParagraphChecker', which isn't run: a judge reads its text",
        )
    ]


def test_a_criterion_with_0_points_is_left_out_and_the_others_keep_their_ids() -> None:
    imported = read(row(GOOD, item("Is long.", 0), item("Is kind.", 2)))
    (loaded,) = imported.loaded
    assert [criterion.cid for criterion in loaded.rubric.criteria] == ["c1", "c3"]
    assert [(d.cid, d.what) for d in imported.doubts] == [
        ("c2", "has 0 points and is left out: 'Is long.'")
    ]


def test_points_below_0_are_bad_to_meet_and_a_doubt() -> None:
    imported = read(row(GOOD, item("Names a spice.", -3)))
    criterion = imported.loaded[0].rubric.criteria[1]
    assert (criterion.polarity, criterion.weight) == (-1, 3.0)
    assert [(d.cid, d.what) for d in imported.doubts] == [
        ("c2", "has points below 0, while the set's are 0 to 10")
    ]


def test_a_ground_truth_is_the_reference() -> None:
    reward_model = {"ground_truth": "Basil, thyme.", "rubrics": [GOOD]}
    assert read(row(reward_model=reward_model)).loaded[0].record.reference == "Basil, thyme."


def test_a_domain_may_be_given_in_place_of_the_ability() -> None:
    assert read(row(GOOD), domain="herbs").loaded[0].record.domain == "herbs"
    assert read(row(GOOD, ability=None)).loaded[0].record.domain == "Writing"


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"prompt": []}, "the prompt is null, want a list of messages", ""),
        ({"reward_model": "rubric"}, "reward_model is a text that is not JSON", ""),
        ({"reward_model": '{"rubrics": ['}, "reward_model is a text that is not JSON", ""),
        ({"reward_model": None}, "no criteria", ""),
        ({"reward_model": {"rubrics": [item("x", 0)]}}, "all points are 0", ""),
        ({"reward_model": {"rubrics": [item("x", -1)]}}, "no criterion is good to meet", ""),
        (
            {"reward_model": {"rubrics": [GOOD, item("x", "5")]}},
            "points are not a finite number",
            "c2: a string ('5')",
        ),
        ({"reward_model": {"rubrics": [item("")]}}, "a criterion is blank", "c1"),
    ],
)
def test_an_unusable_row_is_dropped_with_the_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    imported = read(row(GOOD), row(GOOD, **changes))
    assert len(imported.loaded) == 1
    (dropped,) = imported.dropped
    assert (dropped.source, dropped.reason, dropped.detail) == ("row 1", reason, detail)
