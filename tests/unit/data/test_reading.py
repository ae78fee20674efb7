"""Rows come out in order, and a bad file says where and why."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rubric_rl.data.reading import read_jsonl, read_parquet
from rubric_rl.data.records import RawRow
from rubric_rl.errors import DataError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_jsonl_rows_keep_order_and_line_numbers_and_skip_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"x": "\u00e9"}\r\n\n{"x": 2}'.encode())
    assert read_jsonl(path) == [
        RawRow(source="a.jsonl, line 1", value={"x": "\u00e9"}),
        RawRow(source="a.jsonl, line 3", value={"x": 2}),
    ]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"x": 1}\n')
    assert [row.value for row in read_jsonl(path)] == [{"x": 1}]


def test_line_separators_inside_a_string_do_not_end_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"x": "a\u2028b"}\n'.encode())
    assert read_jsonl(path)[0].value == {"x": "a\u2028b"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        # 9 bytes and a newline before the line, 7 bytes in it before the bad one.
        (b'{"x": 10}\n{"x": "\xff"}\n', r"line 2: not UTF-8 at byte 17 of the file"),
        (b'{"x": 1}\n{"x": "ab', r"line 2: truncated JSON: Unterminated string"),
        (b'{"x": 1}\n{"x": 1, "y"', r"line 2: truncated JSON"),
        (b'{"x": 1}\n{"x": 1,', r"line 2: truncated JSON"),
        (b"{'x': 1}\n", r"line 1: invalid JSON: .* \(column 2 of 8\)"),
        (b"\n[1, 2]\n", r"line 2: a list \(\[1, 2\]\), want a JSON object"),
        (b'"text"\n', r"line 1: a string \('text'\), want a JSON object"),
        (b'{"x": "\\ud83d"}\n', r"line 1: a \\u escape is half of a surrogate pair"),
        (b'{"x": 1}\n{"x": ' + b"9" * 4301 + b"}\n", r"line 2: .*more than 4300 digits"),
        (b'{"x": 1}\n{"x": ' + b"[" * 100_000, r"line 2: .*nested too deeply"),
        (b"", r"a.jsonl is empty: want one JSON object a line"),
        (b"\n  \n", r"a.jsonl is empty: want one JSON object a line"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(DataError, match=reason) as caught:
        read_jsonl(path)
    assert str(path) in str(caught.value)


def test_all_bad_lines_are_listed_up_to_twenty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"x": 1}\n' + b"no\n" * 23)
    with pytest.raises(DataError) as caught:
        read_jsonl(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[1].startswith("  line 2: invalid JSON")
    assert lines[-1] == "  ... and 3 more"


def test_parquet_rows_are_plain_values_numbered_from_0(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = [{"x": 1, "y": [{"z": "a"}]}, {"x": None, "y": []}]
    pq.write_table(pa.Table.from_pylist(values), path)
    assert read_parquet(path) == [
        RawRow(source="a.parquet, row 0", value=values[0]),
        RawRow(source="a.parquet, row 1", value=values[1]),
    ]


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", b"plain text, not columns")
    with pytest.raises(DataError, match=r"a.parquet can't be read as Parquet"):
        read_parquet(path)


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), path)
    with pytest.raises(DataError, match=r"a.parquet is empty: it has no rows \(columns: \['x'\]\)"):
        read_parquet(path)


def test_row_hash_depends_on_content_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"x": 1, "y": 2}\n{"y":2,"x":1}\n{"x": 1, "y": 3}\n')
    first, same, other = (row.row_hash for row in read_jsonl(path))
    assert first == same
    assert first != other
    assert len(bytes.fromhex(first)) == 32


def test_row_hash_takes_values_that_json_lacks() -> None:
    row = RawRow(source="s", value={"x": b"\x00", "y": json})
    assert row.row_hash == RawRow(source="t", value={"y": json, "x": b"\x00"}).row_hash
