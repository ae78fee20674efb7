"""What is written is read back field by field, or nothing is written."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_rl.data.export import Layout, canonical_row, export_prompts, verl_row
from rubric_rl.data.formats.catalog import read_prompt_file
from rubric_rl.data.records import LoadedPrompt, Role, Split
from rubric_rl.errors import DataError
from rubric_rl.rubrics.rules import RuleCheck, parse_rule
from rubric_rl.types import Criterion, Lineage, Message, PromptRecord, Rubric

FILES: list[tuple[str, Layout]] = [
    ("a.jsonl", "canonical"),
    ("a.parquet", "verl"),
    ("b.jsonl", "verl"),
]

# ----------------------------------------------------------------------------
# Prompts

# Any text that a file can hold: control characters and line ends, but no surrogates.
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(
    lambda text: bool(text.strip())
)
tags = st.lists(st.text(st.characters(codec="utf-8"), max_size=10), max_size=3).map(tuple)
weights = st.floats(min_value=1e-6, max_value=1e6)
rules: st.SearchStrategy[RuleCheck] = st.one_of(
    st.lists(texts, min_size=1, max_size=3).map(
        lambda terms: parse_rule({"rule": "contains_all", "terms": terms})
    ),
    st.integers(min_value=1, max_value=500).map(
        lambda bound: parse_rule({"rule": "word_count", "min": 1, "max": bound})
    ),
    st.just(parse_rule({"rule": "regex", "pattern": r"\d+ \"mg\"", "ignore_case": True})),
)
lineages = st.one_of(
    st.just(Lineage(op="add")),
    st.sampled_from(["rewrite", "split", "keep"]).map(lambda op: Lineage(op=op, sources=("c1",))),
    st.just(Lineage(op="merge", sources=("c1", "c2"))),
)


@st.composite
def criteria(draw: st.DrawFn, cid: str, *, is_first: bool) -> Criterion:
    # The first is good to meet, as a rubric needs one that is.
    polarity = 1 if is_first else draw(st.sampled_from([1, -1]))
    gate = "essential" if polarity == 1 else "veto"
    return Criterion(
        cid=cid,
        text=draw(texts),
        weight=draw(weights),
        polarity=polarity,
        kind=draw(st.sampled_from(["normal", gate])),
        axis=draw(st.none() | texts),
        tags=draw(tags),
        rule=draw(st.none() | rules),
        lineage=draw(st.none() | lineages),
    )


@st.composite
def prompts(draw: st.DrawFn, prompt_id: str) -> LoadedPrompt:
    cids = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    roles = draw(st.lists(st.sampled_from(get_args(Role)), max_size=2))
    return LoadedPrompt(
        record=PromptRecord(
            prompt_id=prompt_id,
            messages=tuple(Message(role=role, content=draw(texts)) for role in [*roles, "user"]),
            domain=draw(texts),
            source="made up",
            row_hash=hashlib.sha256(draw(texts).encode()).hexdigest(),
            reference=draw(st.none() | texts),
        ),
        rubric=Rubric(
            prompt_id=prompt_id,
            version=draw(st.integers(min_value=0, max_value=9)),
            criteria=tuple(
                draw(criteria(cid, is_first=position == 0)) for position, cid in enumerate(cids)
            ),
        ),
        split=draw(st.none() | st.sampled_from(get_args(Split))),
    )


@st.composite
def prompt_sets(draw: st.DrawFn) -> list[LoadedPrompt]:
    ids = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
    return [draw(prompts(prompt_id)) for prompt_id in ids]


def full_prompt() -> LoadedPrompt:
    """One with every field set to something other than its default."""
    return LoadedPrompt(
        record=PromptRecord(
            prompt_id="h001",
            messages=(
                Message(role="system", content="Be brief."),
                Message(role="user", content="How much water a day?"),
            ),
            domain="health",
            source="made up",
            row_hash="0" * 64,
            reference="About 2 litres.",
        ),
        rubric=Rubric(
            prompt_id="h001",
            version=3,
            criteria=(
                Criterion(
                    cid="amount",
                    text="Gives an amount for a day.",
                    weight=2.5,
                    kind="essential",
                    axis="accuracy",
                    tags=("axis:accuracy", "source:doctor"),
                    rule=parse_rule({"rule": "number_count", "min": 1}),
                    lineage=Lineage(op="merge", sources=("c1", "c2")),
                ),
                Criterion(cid="scold", text="Scolds the user.", weight=4, polarity=-1, kind="veto"),
            ),
        ),
        split="eval",
    )


def read_back(path: Path) -> list[LoadedPrompt]:
    imported = read_prompt_file(path, "auto", what=str(path)).imported
    assert imported.dropped == ()
    assert imported.doubts == ()
    return list(imported.loaded)


def without_source(prompt: LoadedPrompt) -> LoadedPrompt:
    return replace(prompt, record=replace(prompt.record, source=""))


# ----------------------------------------------------------------------------
# There and back


@pytest.mark.parametrize(("name", "layout"), FILES)
def test_reading_what_was_written_gives_it_back_field_by_field(
    tmp_path_factory: pytest.TempPathFactory, name: str, layout: Layout
) -> None:
    folder = tmp_path_factory.mktemp("export")

    @settings(max_examples=40, deadline=None)
    @given(prompt_sets())
    def holds(written: list[LoadedPrompt]) -> None:
        export_prompts(written, folder / name, layout)
        found = read_back(folder / name)
        assert [without_source(p) for p in found] == [without_source(p) for p in written]

    holds()


@pytest.mark.parametrize(("name", "layout"), FILES)
def test_no_field_of_a_full_prompt_is_lost(tmp_path: Path, name: str, layout: Layout) -> None:
    prompt = full_prompt()
    # A field that is new in the nouns has to be set above, or this test says nothing of it.
    fields = [*dataclasses.fields(Criterion), *dataclasses.fields(PromptRecord)]
    holders = [prompt.rubric.criteria[0], prompt.record]
    unset = {
        field.name
        for field in fields
        for holder in holders
        if hasattr(holder, field.name) and getattr(holder, field.name) == field.default
    }
    assert unset == {"polarity"}
    assert prompt.rubric.criteria[1].polarity == -1
    export_prompts([prompt], tmp_path / name, layout)
    (found,) = read_back(tmp_path / name)
    assert without_source(found) == without_source(prompt)
    assert found.record.source.startswith(name)


@pytest.mark.parametrize(("name", "layout"), FILES)
def test_writing_what_was_read_gives_the_same_bytes(
    tmp_path: Path, name: str, layout: Layout
) -> None:
    first, second = tmp_path / f"1{name}", tmp_path / f"2{name}"
    export_prompts([full_prompt()], first, layout)
    export_prompts(read_back(first), second, layout)
    assert first.read_bytes() == second.read_bytes()


# ----------------------------------------------------------------------------
# The layouts


def test_openrlhfs_and_trls_rows_name_the_prompt_and_hold_no_rubric(tmp_path: Path) -> None:
    prompt = full_prompt()
    record = prompt.record
    turns = [{"role": m.role, "content": m.content} for m in record.messages]
    for name in ("t.jsonl", "t.parquet"):
        export_prompts([prompt], tmp_path / name, "trl")
    export_prompts([prompt], tmp_path / "o.jsonl", "openrlhf")
    trl = {"prompt": turns, "prompt_id": record.prompt_id, "domain": record.domain}
    openrlhf = {"prompt": turns, "label": record.prompt_id, "datasource": record.domain}
    assert json.loads((tmp_path / "t.jsonl").read_text(encoding="utf-8")) == trl
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [trl]
    assert json.loads((tmp_path / "o.jsonl").read_text(encoding="utf-8")) == openrlhf
    with pytest.raises(DataError, match=r"'openrlhf' is written to a \.jsonl file"):
        export_prompts([prompt], tmp_path / "o.parquet", "openrlhf")


def test_points_are_polarity_times_weight_and_ground_truth_is_empty() -> None:
    row = json.loads(json.dumps(verl_row(full_prompt(), 0)))
    assert row["data_source"] == row["ability"] == "health"
    assert row["prompt"][-1] == {"role": "user", "content": "How much water a day?"}
    assert (row["reward_model"]["style"], row["reward_model"]["ground_truth"]) == ("rubric", "")
    assert row["reward_model"]["rubrics"] == [
        {
            "criterion": "Gives an amount for a day.",
            "points": 2.5,
            "tags": ["axis:accuracy", "source:doctor"],
        },
        {"criterion": "Scolds the user.", "points": -4, "tags": []},
    ]


def test_verl_parquet_has_the_same_columns_whatever_is_set(tmp_path: Path) -> None:
    bare = replace(
        full_prompt(),
        record=replace(full_prompt().record, reference=None),
        rubric=Rubric(
            prompt_id="h001", version=0, criteria=(Criterion(cid="c", text="Is kind.", weight=1),)
        ),
        split=None,
    )
    export_prompts([bare], tmp_path / "bare.parquet", "verl")
    export_prompts([full_prompt()], tmp_path / "full.parquet", "verl")
    schemas = [pq.read_schema(tmp_path / f"{name}.parquet") for name in ("bare", "full")]
    assert schemas[0].equals(schemas[1])


def test_the_reference_is_in_neither_prompt_nor_ground_truth() -> None:
    row = json.loads(json.dumps(verl_row(full_prompt(), 0)))
    reference = "About 2 litres."
    assert reference not in json.dumps([row["prompt"], row["reward_model"]])
    assert row["extra_info"]["reference"] == reference


def test_canonical_leaves_out_defaults_but_states_the_polarity() -> None:
    prompt = full_prompt()
    bare = replace(
        prompt,
        record=replace(prompt.record, reference=None),
        rubric=Rubric(
            prompt_id="h001", version=0, criteria=(Criterion(cid="c", text="Is kind.", weight=1),)
        ),
        split=None,
    )
    row = json.loads(json.dumps(canonical_row(bare)))
    assert set(row) == {"id", "domain", "messages", "rubric", "row_hash"}
    assert row["rubric"] == {
        "criteria": [{"id": "c", "text": "Is kind.", "weight": 1, "polarity": 1}]
    }


def test_a_rubric_that_was_edited_on_one_side_only_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    export_prompts([full_prompt()], path, "verl")
    row = json.loads(path.read_text())
    row["reward_model"]["rubrics"].pop()
    path.write_text(json.dumps(row))
    imported = read_prompt_file(path, "auto", what="it").imported
    assert imported.loaded == ()
    assert [drop.reason for drop in imported.dropped] == [
        "reward_model and extra_info have different numbers of criteria"
    ]


# ----------------------------------------------------------------------------
# Files


def _not_a_folder(tmp_path: Path) -> Path:
    return tmp_path / "none" / "a.jsonl"


def _wrong_suffix(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


@pytest.mark.parametrize(
    ("place", "message"),
    [(_wrong_suffix, r"written to a .jsonl file, got the suffix '.csv'"), (_not_a_folder, "none")],
)
def test_a_place_that_cannot_be_written_is_refused_in_words(
    tmp_path: Path, place: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        export_prompts([full_prompt()], place(tmp_path), "canonical")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "layout"), FILES)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, name: str, layout: Layout
) -> None:
    path = tmp_path / name
    path.write_text("what was there")
    prompt = full_prompt()
    # Half of a surrogate pair: no file takes it.
    broken = replace(prompt, record=replace(prompt.record, reference="\ud800"))
    with pytest.raises(UnicodeEncodeError):
        export_prompts([prompt, broken], path, layout)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "layout"), FILES)
def test_whoever_has_the_old_file_open_reads_it_to_its_end(
    tmp_path: Path, name: str, layout: Layout
) -> None:
    path = tmp_path / name
    path.write_text("what was there")
    with path.open() as file:
        export_prompts([full_prompt()], path, layout)
        assert file.read() == "what was there"
    assert read_back(path)
