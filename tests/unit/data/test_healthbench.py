"""HealthBench rows in three layouts give one form, and unusable ones a reason."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rubric_rl.data.healthbench import parse_healthbench_jsonl, parse_healthbench_parquet
from rubric_rl.data.reading import read_jsonl, read_parquet
from rubric_rl.data.records import Dropped, LoadedPrompt, RawRow
from rubric_rl.types import Criterion

CANARY = "canary-0f7c"
PROMPT = [{"role": "user", "content": "My ankle is swollen. What now?"}]
RUBRICS = [
    {"criterion": "Suggests rest.", "points": 7, "tags": ["level:example", "axis:accuracy"]},
    {"criterion": "Tells the user to run.", "points": -4, "tags": ["level:cluster"]},
]


def jsonl_row(**changes: Any) -> dict[str, Any]:
    base = {
        "prompt_id": "u-1",
        "prompt": PROMPT,
        "rubrics": RUBRICS,
        "example_tags": ["theme:hedging"],
        "ideal_completions_data": {"ideal_completion": "Rest it.", "canary": CANARY},
        "canary": CANARY,
    }
    return base | changes


def parquet_row(rubrics: object, **extra_info: Any) -> dict[str, Any]:
    reward_model = {"style": "rubric", "ground_truth": "", "rubrics": rubrics}
    return {
        "data_source": "healthbench",
        "prompt": PROMPT,
        "ability": "medical_chat",
        "reward_model": reward_model,
        "extra_info": {"prompt": PROMPT, "reward_model": reward_model} | extra_info,
    }


def with_struct_tags(
    axis: str | None, level: str | None, cluster: str | None
) -> list[dict[str, Any]]:
    tags = {"axis": axis, "level": level, "cluster": cluster}
    return [{**criterion, "tags": tags} for criterion in RUBRICS]


def parse_jsonl(*values: dict[str, Any]) -> tuple[tuple[LoadedPrompt, ...], tuple[Dropped, ...]]:
    rows = [RawRow(source=f"row {i}", value=value) for i, value in enumerate(values)]
    return parse_healthbench_jsonl(rows)


def test_original_jsonl_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hb.jsonl"
    path.write_text(json.dumps(jsonl_row()) + "\n")
    (loaded,), dropped = parse_healthbench_jsonl(read_jsonl(path))
    assert dropped == ()
    assert loaded.split is None
    assert loaded.record.prompt_id == "u-1"
    assert loaded.record.domain == "health"
    assert loaded.record.source == "hb.jsonl, line 1"
    assert loaded.record.messages[0].content == "My ankle is swollen. What now?"


def test_the_sign_of_points_is_the_polarity_and_their_size_the_weight() -> None:
    (loaded,), _ = parse_jsonl(jsonl_row())
    assert loaded.rubric.criteria == (
        Criterion(
            cid="c1", text="Suggests rest.", weight=7.0, tags=("level:example", "axis:accuracy")
        ),
        Criterion(
            cid="c2",
            text="Tells the user to run.",
            weight=4.0,
            polarity=-1,
            tags=("level:cluster",),
        ),
    )


def test_wording_never_changes_polarity() -> None:
    rubrics = [{"criterion": "Fails to mention rest.", "points": 5, "tags": []}]
    (loaded,), _ = parse_jsonl(jsonl_row(rubrics=rubrics))
    assert loaded.rubric.criteria[0].polarity == 1


def test_the_canary_is_not_kept() -> None:
    assert CANARY not in repr(parse_jsonl(jsonl_row()))


def test_parquet_with_string_tags_gets_a_derived_id(tmp_path: Path) -> None:
    path = tmp_path / "hb.parquet"
    pq.write_table(pa.Table.from_pylist([parquet_row(RUBRICS)]), path)
    (loaded,), dropped = parse_healthbench_parquet(read_parquet(path))
    assert dropped == ()
    assert re.fullmatch(r"hb-[0-9a-f]{12}", loaded.record.prompt_id)
    assert loaded.record.source == "hb.parquet, row 0"
    assert loaded.rubric.criteria[0].tags == ("level:example", "axis:accuracy")


def test_parquet_with_struct_tags_has_its_id_in_extra_info(tmp_path: Path) -> None:
    path = tmp_path / "hb.parquet"
    row = parquet_row(with_struct_tags("accuracy", "example", None), healthbench_prompt_id="u-7")
    pq.write_table(pa.Table.from_pylist([row]), path)
    (loaded,), dropped = parse_healthbench_parquet(read_parquet(path))
    assert dropped == ()
    assert loaded.record.prompt_id == "u-7"
    assert loaded.rubric.criteria[0].tags == ("axis:accuracy", "level:example")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("a", "b", "c"), ("axis:a", "level:b", "cluster:c")),
        ((None, "b", ""), ("level:b",)),
        ((None, None, None), ()),
    ],
)
def test_struct_tags_skip_what_is_empty(
    tags: tuple[str | None, str | None, str | None], expected: tuple[str, ...]
) -> None:
    row = RawRow(source="row 0", value=parquet_row(with_struct_tags(*tags)))
    (loaded,), _ = parse_healthbench_parquet([row])
    assert loaded.rubric.criteria[0].tags == expected


def test_the_derived_id_does_not_depend_on_layout_or_place() -> None:
    anonymous = jsonl_row(prompt_id=None)
    swapped = [{"content": m["content"], "role": m["role"]} for m in PROMPT]
    other = jsonl_row(prompt_id=None, prompt=[{"role": "user", "content": "Another"}])
    in_jsonl, _ = parse_jsonl(other, anonymous)
    struct = parquet_row(with_struct_tags("x", None, None))
    struct["prompt"] = swapped
    in_parquet, _ = parse_healthbench_parquet([RawRow(source="row 0", value=struct)])
    assert in_jsonl[1].record.prompt_id == in_parquet[0].record.prompt_id
    assert in_jsonl[0].record.prompt_id != in_jsonl[1].record.prompt_id


def test_the_derived_id_changes_with_a_criterion() -> None:
    (first, second), _ = parse_jsonl(
        jsonl_row(prompt_id=None), jsonl_row(prompt_id=None, rubrics=RUBRICS[:1])
    )
    assert first.record.prompt_id != second.record.prompt_id


def criterion(**changes: Any) -> dict[str, Any]:
    return {"criterion": "Suggests rest.", "points": 5, "tags": []} | changes


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"prompt": []}, "the prompt is empty", ""),
        ({"prompt": None}, "the prompt is null, want a list of messages", ""),
        ({"prompt": [{"role": "user", "content": " "}]}, "content is blank", "message 1"),
        (
            {"prompt": [*PROMPT, {"role": "assistant", "content": "Rest."}]},
            "the last message is from 'assistant', want 'user'",
            "",
        ),
        (
            {"prompt": [{"role": "tool", "content": "x"}, *PROMPT]},
            "unknown role 'tool', want one of system, user, assistant",
            "message 1",
        ),
        ({"rubrics": []}, "no criteria", ""),
        ({"rubrics": None}, "no criteria", ""),
        ({"rubrics": [criterion(), criterion(criterion=" ")]}, "a criterion is blank", "c2"),
        ({"rubrics": [criterion(), criterion(points=0)]}, "points are 0", "c2"),
        ({"rubrics": [criterion(points=None)]}, "points are not a finite number", "c1: null"),
        (
            {"rubrics": [criterion(points=float("nan"))]},
            "points are not a finite number",
            "c1: a number (nan)",
        ),
        (
            {"rubrics": [criterion(points=-3), criterion(points=-1)]},
            "no criterion with positive points",
            "",
        ),
    ],
)
def test_an_unusable_row_is_dropped_with_the_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    loaded, dropped = parse_jsonl(jsonl_row(), jsonl_row(prompt_id="u-2", **changes))
    assert [prompt.record.prompt_id for prompt in loaded] == ["u-1"]
    assert dropped == (Dropped(source="row 1", prompt_id="u-2", reason=reason, detail=detail),)


def test_the_later_of_two_rows_with_one_id_is_dropped() -> None:
    later = jsonl_row(prompt=[{"role": "user", "content": "Later"}])
    loaded, dropped = parse_jsonl(jsonl_row(), later)
    assert [prompt.record.messages[0].content for prompt in loaded] == [PROMPT[0]["content"]]
    assert dropped == (
        Dropped(source="row 1", prompt_id="u-1", reason="the id occurs before", detail="row 0"),
    )
