"""verl's layout: ours comes back whole, another's keeps prompt, criteria, points and tags."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rubric_rl.data.export import export_prompts, verl_row
from rubric_rl.data.formats.catalog import read_prompt_file
from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.verl import read_verl
from rubric_rl.data.records import LoadedPrompt, RawRow
from rubric_rl.types import Criterion, Message, PromptRecord, Rubric

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How do I sleep better?"},
]
RUBRICS = [
    {"criterion": "Advises a fixed bedtime.", "points": 2.5, "tags": ["axis:advice", "by:me"]},
    {"criterion": "Names a pill.", "points": -4, "tags": []},
]


def foreign(**changes: Any) -> dict[str, Any]:
    base = {
        "data_source": "sleep",
        "ability": "chat",
        "prompt": CHAT,
        "reward_model": {"style": "rubric", "ground_truth": "", "rubrics": RUBRICS},
        "extra_info": {"index": 3, "split": "train"},
    }
    return base | changes


def ours() -> LoadedPrompt:
    return LoadedPrompt(
        record=PromptRecord(
            prompt_id="p1",
            messages=(Message(role="user", content="Hi?"),),
            domain="d",
            source="made up",
            row_hash="0f" * 32,
        ),
        rubric=Rubric(
            prompt_id="p1",
            version=2,
            criteria=(Criterion(cid="kind", text="Is kind.", weight=1.0, tags=("a", " ")),),
        ),
        split="train",
    )


def marked(**changes: Any) -> dict[str, Any]:
    """Our row, as JSON, with changes to extra_info."""
    value = json.loads(json.dumps(verl_row(ours(), 0)))
    value["extra_info"] |= changes
    return value


def read(*values: dict[str, Any], domain: str | None = None) -> Imported:
    rows = [RawRow(source=f"row {i}", value=value) for i, value in enumerate(values)]
    return read_verl(rows, ReadOptions(path=Path("a.parquet"), domain=domain))


def test_a_row_of_another_keeps_prompt_criteria_points_and_tags() -> None:
    imported = read(foreign())
    (loaded,) = imported.loaded
    assert [m.role for m in loaded.record.messages] == ["system", "user"]
    assert (loaded.record.domain, loaded.record.reference, loaded.split) == ("chat", None, None)
    assert loaded.record.row_hash == RawRow(source="", value=foreign()).row_hash
    assert loaded.rubric.criteria == (
        Criterion(
            cid="c1",
            text="Advises a fixed bedtime.",
            weight=2.5,
            axis="advice",
            tags=("axis:advice", "by:me"),
        ),
        Criterion(cid="c2", text="Names a pill.", weight=4.0, polarity=-1),
    )
    assert (imported.dropped, imported.doubts) == ((), ())


@pytest.mark.parametrize(
    ("changes", "prompt_id"),
    [({"prompt_id": "p-7"}, "p-7"), ({"id": "p-8"}, "p-8"), ({"id": 8}, None), ({}, None)],
)
def test_the_id_is_the_rows_or_comes_from_its_content(
    changes: dict[str, Any], prompt_id: str | None
) -> None:
    found = read(foreign(**changes)).loaded[0].record.prompt_id
    if prompt_id is None:
        assert found == read(foreign(data_source="other")).loaded[0].record.prompt_id
        assert found.startswith("verl-")
    else:
        assert found == prompt_id


def test_the_domain_is_the_option_the_ability_or_the_source() -> None:
    assert read(foreign(), domain="x").loaded[0].record.domain == "x"
    assert read(marked(), domain="x").loaded[0].record.domain == "x"
    assert read(foreign(ability=None)).loaded[0].record.domain == "sleep"
    assert read(foreign(ability=None, data_source="")).loaded[0].record.domain == "verl"


def test_a_ground_truth_is_the_reference_and_not_in_the_prompt() -> None:
    reward_model = {"ground_truth": "Same hour each day.", "rubrics": RUBRICS}
    (loaded,) = read(foreign(reward_model=reward_model)).loaded
    assert loaded.record.reference == "Same hour each day."
    assert "Same hour" not in repr(loaded.record.messages)


@pytest.mark.parametrize("question", ['[{"name": "a"}]', "[1, 2", "[" * 100_000])
def test_a_question_that_is_json_itself_or_looks_like_it_is_a_question(question: str) -> None:
    (loaded,) = read(foreign(prompt=question)).loaded
    assert loaded.record.messages == (Message(role="user", content=question),)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "tags",
    [["axis:advice", "by:me"], {"axis": "advice", "cluster": None, "level": "example"}, {"n": 3}],
)
def test_a_foreign_file_loses_nothing_on_its_way_through_ours(
    tmp_path: Path, suffix: str, tags: object
) -> None:
    rubrics = [{**criterion, "tags": tags} for criterion in RUBRICS]
    value = foreign(reward_model={"ground_truth": "", "rubrics": rubrics, "style": "rubric"})
    path = tmp_path / f"theirs{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([value]), path)
    else:
        path.write_text(json.dumps(value))
    first = read_prompt_file(path, "verl", what="it").imported.loaded
    export_prompts(first, tmp_path / "a.parquet", "verl")
    second = read_prompt_file(tmp_path / "a.parquet", "auto", what="it").imported.loaded
    export_prompts(second, tmp_path / "a.jsonl", "canonical")
    third = read_prompt_file(tmp_path / "a.jsonl", "auto", what="it").imported.loaded
    assert first[0].rubric == second[0].rubric == third[0].rubric
    assert first[0].record.row_hash == third[0].record.row_hash
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert sorted(m["content"] for m in row["prompt"]) == sorted(m["content"] for m in CHAT)
    found = row["reward_model"]["rubrics"]
    assert [(c["criterion"], c["points"]) for c in found] == [
        ("Advises a fixed bedtime.", 2.5),
        ("Names a pill.", -4.0),
    ]
    expected = {"axis": ["axis:advice", "level:example"], "n": ["n:3"]}
    key = next((key for key in expected if isinstance(tags, dict) and key in tags), None)
    assert found[0]["tags"] == (expected[key] if key else tags)


# ----------------------------------------------------------------------------
# Our mark


def test_our_row_comes_back_whole() -> None:
    imported = read(marked())
    (loaded,) = imported.loaded
    assert loaded.record.source == "row 0"
    assert loaded.rubric == ours().rubric
    assert loaded.split == "train"
    assert loaded.record.row_hash == "0f" * 32


def test_points_that_were_changed_in_the_file_count() -> None:
    value = marked()
    value["reward_model"]["rubrics"][0]["points"] = 7
    assert read(value).loaded[0].rubric.criteria[0].weight == 7.0


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        (
            {"criteria": []},
            "reward_model and extra_info have different numbers of criteria",
            "1 and 0",
        ),
        ({"rubric_version": -1}, "rubric_version is not a whole number", ""),
        ({"rubric_version": None}, "rubric_version is not a whole number", ""),
        ({"domain": None}, "domain is not a text", ""),
        ({"split": "test"}, "split is not train or eval", ""),
        ({"row_hash": "abc"}, "row_hash is not a SHA-256 in hex", ""),
        (
            {"criteria": [{"id": "kind", "kind": "veto"}]},
            "the rubric is not valid",
            "criterion 1 ('kind'): kind 'veto' is for a criterion that is bad to meet, so its "
            "polarity must be -1, got 1",
        ),
        (
            {"criteria": [{"id": None, "kind": "normal"}]},
            "the rubric is not valid",
            "criterion 1: id: got null, want a string",
        ),
    ],
)
def test_our_row_that_was_damaged_is_dropped_with_the_reason(
    changes: dict[str, Any], reason: str, detail: str
) -> None:
    imported = read(marked(), marked(prompt_id="p2", **changes))
    assert len(imported.loaded) == 1
    (dropped,) = imported.dropped
    assert (dropped.prompt_id, dropped.reason, dropped.detail) == ("p2", reason, detail)
