"""A file's format is recognised by its columns, or refused with what was found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rubric_rl.data.formats.catalog import FORMATS, FormatName, FormatOption, read_prompt_file
from rubric_rl.errors import ConfigError, DataError

Row = dict[str, Any]

CHAT = [{"role": "user", "content": "How do I sleep better?"}]
POINTS = [{"criterion": "Advises a fixed bedtime.", "points": 5, "tags": ["a"]}]
ANNOTATIONS = {"weight_class": "important", "important_weight": 5, "criteria_category": "Utility"}


def verl_row(tags: object = (), **changes: Any) -> Row:
    rubrics = [{**POINTS[0], "tags": list(tags) if isinstance(tags, tuple) else tags}]
    return {"prompt": CHAT, "reward_model": {"style": "rubric", "rubrics": rubrics}} | changes


# A row of each format, as it comes.
ROWS: dict[str, tuple[FormatName, Row]] = {
    "canonical": (
        "canonical",
        {
            "id": "a",
            "domain": "d",
            "messages": CHAT,
            "rubric": {"criteria": [{"id": "c1", "text": "Is kind.", "weight": 1}]},
        },
    ),
    "healthbench": ("healthbench", {"prompt_id": "a", "prompt": CHAT, "rubrics": POINTS}),
    "healthbench in verl by source": ("healthbench", verl_row(data_source="healthbench")),
    "healthbench in verl by tags": ("healthbench", verl_row({"axis": "accuracy", "level": None})),
    "healthbench in verl by id": (
        "healthbench",
        verl_row(extra_info={"healthbench_prompt_id": "u-1"}),
    ),
    "rar": (
        "rar",
        {
            "question": "Why?",
            "reference_answer": "So.",
            "rubric": [{"title": "t", "description": "Essential Criteria: Says so.", "weight": 5}],
        },
    ),
    "junkaiz": (
        "junkaiz",
        {
            "prompt": "Why?",
            "rubrics": [{"criterion": "Says so.", "weight": 2}],
            "number_of_criteria": 1,
            "total_weight": 2,
        },
    ),
    "rubrichub pipeline": ("rubrichub", {"question": "Why?", "id": "a", "rubrics": POINTS}),
    "rubrichub by tags": (
        "rubrichub",
        verl_row({"function": "", "parameters": {"n": None}, "verifier": "llm"}),
    ),
    "rubrichub by its column": ("rubrichub", verl_row(Rubrics=POINTS)),
    "prbench": (
        "prbench",
        {
            "task": "t-1",
            "turns": 1,
            "prompt_0": "Why?",
            "rubric": [{"id": "x", "title": "Says so.", "annotations": ANNOTATIONS}],
        },
    ),
    "verl": ("verl", verl_row()),
    "verl with messages": ("verl", {"messages": CHAT, "reward_model": {"rubrics": POINTS}}),
    "verl in a string": ("verl", verl_row(reward_model=json.dumps({"rubrics": POINTS}))),
}


def write(path: Path, rows: Sequence[Row]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("name", "suffix"),
    [(name, suffix) for name, (option, _) in ROWS.items() for suffix in FORMATS[option].suffixes],
)
def test_each_format_is_recognised_and_read_from_either_file(
    tmp_path: Path, name: str, suffix: str
) -> None:
    expected, row = ROWS[name]
    file = read_prompt_file(write(tmp_path / f"a{suffix}", [row]), "auto", what="it")
    assert file.format == expected
    assert (file.num_rows, len(file.imported.loaded)) == (1, 1)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_openrubrics_is_recognised_and_read_with_its_weights(tmp_path: Path, suffix: str) -> None:
    row = {"instruction": "Say hi.", "winner": "a", "rubric": "1. Says hi. [Hard Rule]"}
    path = write(tmp_path / f"a{suffix}", [row])
    file = read_prompt_file(path, "auto", what="it", pairs=["weights=hard=2,principle=1"])
    assert (file.format, len(file.imported.loaded)) == ("openrubrics", 1)


def test_the_table_above_has_every_format() -> None:
    assert {name for name, _ in ROWS.values()} | {"openrubrics"} == set(FORMATS)


def test_a_layout_that_fits_two_formats_is_refused_naming_both(tmp_path: Path) -> None:
    row = ROWS["healthbench"][1] | {"total_weight": 5}
    with pytest.raises(
        DataError, match=r"layout with prompt, prompt_id, rubrics, total_weight cou"
    ):
        read_prompt_file(write(tmp_path / "a.jsonl", [row]), "auto", what="it")
    with pytest.raises(DataError, match="could be healthbench or junkaiz: say which"):
        read_prompt_file(write(tmp_path / "a.jsonl", [row]), "auto", what="it")
    file = read_prompt_file(tmp_path / "a.jsonl", "healthbench", what="it")
    assert len(file.imported.loaded) == 1


def test_rows_of_two_sets_in_verls_layout_are_refused_with_their_numbers(tmp_path: Path) -> None:
    rows = [verl_row(data_source="healthbench"), verl_row(), verl_row(Rubrics=POINTS)]
    with pytest.raises(DataError, match="1 rows of healthbench, 1 rows of rubrichub: split"):
        read_prompt_file(write(tmp_path / "a.jsonl", rows), "auto", what="it")


def test_rows_that_do_not_tell_their_set_go_with_those_that_do(tmp_path: Path) -> None:
    rows = [verl_row(), verl_row(data_source="healthbench")]
    file = read_prompt_file(write(tmp_path / "a.jsonl", rows), "auto", what="it")
    assert file.format == "healthbench"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_unknown_layout_is_refused_with_what_was_found_and_what_is_allowed(
    tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"a{suffix}", [{"prompt": "x", "chosen": "y"}])
    with pytest.raises(DataError) as caught:
        read_prompt_file(path, "auto", what="it")
    message = str(caught.value)
    assert (
        f"{path}: the layout with chosen, prompt is not known; allowed are\n  canonical" in message
    )
    assert "\n  rar (.jsonl or .parquet) with question, rubric\n" in message


def test_a_misspelt_key_of_ours_is_reported_as_such(tmp_path: Path) -> None:
    row = dict(ROWS["canonical"][1])
    row["mesages"] = row.pop("messages")
    with pytest.raises(DataError, match="unknown key 'mesages': did you mean 'messages'"):
        read_prompt_file(write(tmp_path / "a.jsonl", [row]), "auto", what="it")


# ----------------------------------------------------------------------------
# Suffixes


def test_an_unknown_suffix_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "prompts.csv", [ROWS["rar"][1]])
    with pytest.raises(
        DataError, match=r"it has the suffix '.csv'.*:\n  canonical \(.jsonl\) with"
    ):
        read_prompt_file(path, "auto", what="it")


@pytest.mark.parametrize("name", ["junkaiz", "canonical"])
def test_a_format_that_is_named_is_read_from_a_file_of_any_name(tmp_path: Path, name: str) -> None:
    option, row = ROWS[name]
    path = write(tmp_path / "prompts.txt", [row])
    assert len(read_prompt_file(path, option, what="it").imported.loaded) == 1


def test_parquet_under_another_name_is_seen_by_its_first_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [ROWS["rar"][1]]).rename(tmp_path / "download")
    assert len(read_prompt_file(path, "rar", what="it").imported.loaded) == 1


def test_our_own_format_is_not_read_from_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [ROWS["rar"][1]])
    with pytest.raises(DataError, match=r"it is a .parquet file, but .*'canonical' is .* .jsonl"):
        read_prompt_file(path, "canonical", what="it")


# ----------------------------------------------------------------------------
# Options


@pytest.mark.parametrize(
    ("option", "pair", "message"),
    [
        ("rar", "weights=hard=1,principle=1", r"'weights=.*' is not known to this format, allowed"),
        ("rar", "domain", r"option 'domain' is not known to this format, allowed: domain=..."),
        ("canonical", "domain=x", r"option 'domain=x' is not known .* allowed: none"),
        ("rar", "domain= ", r"'domain' is blank"),
        ("rar", "essential_gates=yes", r"'essential_gates': got 'yes', want true or false"),
        ("rar", "pitfall_polarity=0", r"'pitfall_polarity': got '0', want 1 or -1"),
        ("openrubrics", "weights=hard=1", r"'weights': got 'hard=1', want both weights"),
        ("openrubrics", "weights=3", r"'weights': got '', want a finite number above 0"),
        ("openrubrics", "weights=hard=0,principle=1", r"got '0', want a finite number above 0"),
        ("openrubrics", "weights=hard=nan,principle=1", r"got 'nan', want a finite number above 0"),
    ],
)
def test_a_bad_option_is_refused_with_what_is_allowed(
    tmp_path: Path, option: FormatOption, pair: str, message: str
) -> None:
    path = write(tmp_path / "a.jsonl", [{"x": 1}])
    with pytest.raises(ConfigError, match=message):
        read_prompt_file(path, option, what="it", pairs=[pair])


def test_an_option_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [ROWS["rar"][1]])
    with pytest.raises(ConfigError, match="'domain' is given more than once"):
        read_prompt_file(path, "rar", what="it", pairs=["domain=a", "domain=b"])
