"""What an import adds to our own records is read, checked, and otherwise no obstacle."""

from pathlib import Path
from typing import Any

import pytest

from rubric_rl.data.formats.canonical import read_canonical
from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.records import RawRow
from rubric_rl.errors import DataError

CRITERIA = [{"id": "c1", "text": "Gives a time.", "weight": 3}]


def record(**changes: Any) -> dict[str, Any]:
    base = {
        "id": "h1",
        "domain": "health",
        "messages": [{"role": "user", "content": "How long should I nap?"}],
        "rubric": {"criteria": CRITERIA},
    }
    return base | changes


def read(*values: dict[str, Any]) -> Imported:
    rows = [
        RawRow(source=f"set.jsonl, line {line}", value=value)
        for line, value in enumerate(values, start=1)
    ]
    return read_canonical(rows, ReadOptions(path=Path("set.jsonl")))


def test_the_hash_of_the_first_row_and_the_version_are_kept() -> None:
    value = record(row_hash="ab" * 32, rubric={"version": 3, "criteria": CRITERIA})
    (loaded,) = read(value).loaded
    assert (loaded.record.row_hash, loaded.rubric.version) == ("ab" * 32, 3)
    assert loaded.record.source == "set.jsonl, line 1"


def test_without_them_the_hash_is_this_rows_and_the_version_0() -> None:
    (loaded,) = read(record()).loaded
    assert loaded.record.row_hash == RawRow(source="", value=record()).row_hash
    assert loaded.rubric.version == 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"row_hash": "AB" * 32}, "row_hash is not a SHA-256 in hex"),
        ({"row_hash": 5}, "row_hash is not a SHA-256 in hex"),
        (
            {"rubric": {"version": -1, "criteria": CRITERIA}},
            "rubric: version: got a number (-1), want a whole number from 0 on",
        ),
        (
            {"rubric": {"version": True, "criteria": CRITERIA}},
            "rubric: version: got a boolean (True), want a whole number from 0 on",
        ),
    ],
)
def test_bad_ones_refuse_the_file_with_their_line(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read(record(), record(id="h2", **changes))
    assert str(caught.value) == (
        f"set.jsonl is not a valid prompt file:\n  set.jsonl, line 2: {problem}"
    )


@pytest.mark.parametrize("rubric", [None, "x", {"criterias": []}])
def test_a_bad_rubric_is_reported_as_without_them(rubric: object) -> None:
    with pytest.raises(DataError, match="line 1: rubric"):
        read(record(rubric=rubric))
