"""Rows out of JSONL and Parquet files, and errors that say where and why not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rubric_rl.data.records import RawRow
from rubric_rl.errors import DataError
from rubric_rl.rubrics.validation import describe_value

# Enough to see a pattern, few enough to read on a screen.
MAX_LISTED_PROBLEMS = 20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _LineError(Exception):
    """Why one line can't be read."""


def read_jsonl(path: Path) -> list[RawRow]:
    """The object on each line that is not blank, in file order.

    Raises:
        DataError: names the file and, for each bad line, its number and the
            reason: not UTF-8, truncated or invalid JSON, not an object, a number too
            long or nesting too deep for Python.
    """
    content = path.read_bytes()
    rows: list[RawRow] = []
    problems: list[str] = []
    offset = 0
    for line, raw in enumerate(content.split(b"\n"), start=1):
        try:
            value = _parse_line(raw, offset)
        except _LineError as err:
            problems.append(f"line {line}: {err}")
        else:
            if value is not None:
                rows.append(RawRow(source=f"{path.name}, line {line}", value=value))
        offset += len(raw) + 1
    if problems:
        raise DataError(f"{path} can't be read as JSONL:{list_problems(problems)}")
    if not rows:
        raise DataError(f"{path} is empty: want one JSON object a line")
    return rows


def read_parquet(path: Path) -> list[RawRow]:
    """Each row as plain Python values, in file order.

    Raises:
        DataError: names the file and the reason: not Parquet, no rows.
    """
    # Here because it takes long to import, and most runs read JSONL.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as err:
        raise DataError(f"{path} can't be read as Parquet: {err}") from err
    values = cast("list[dict[str, object]]", table.to_pylist())
    if not values:
        raise DataError(f"{path} is empty: it has no rows (columns: {table.column_names})")
    return [
        RawRow(source=f"{path.name}, row {index}", value=value)
        for index, value in enumerate(values)
    ]


def list_problems(problems: Sequence[str]) -> str:
    """One problem a line, indented; past the limit only their number."""
    lines = list(problems[:MAX_LISTED_PROBLEMS])
    if len(problems) > MAX_LISTED_PROBLEMS:
        lines.append(f"... and {len(problems) - MAX_LISTED_PROBLEMS} more")
    return "".join(f"\n  {line}" for line in lines)


def _parse_line(raw: bytes, offset: int) -> dict[str, object] | None:
    """The object on a line that starts at byte `offset` of its file; None if it is blank."""
    start = len(_BYTE_ORDER_MARK) if offset == 0 and raw.startswith(_BYTE_ORDER_MARK) else 0
    try:
        text = raw[start:].decode("utf-8").strip()
    except UnicodeDecodeError as err:
        at = offset + start + err.start
        raise _LineError(f"not UTF-8 at byte {at} of the file: {err.reason}") from err
    if not text:
        return None
    try:
        value: object = json.loads(text)
        # JSON can spell half of a surrogate pair, which no file or tokenizer takes later.
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as err:
        raise _LineError(_json_reason(err, text)) from err
    except UnicodeEncodeError as err:
        raise _LineError("a \\u escape is half of a surrogate pair") from err
    except ValueError as err:
        # The only other one: Python takes no integer of more digits out of a text.
        most = sys.get_int_max_str_digits()
        raise _LineError(f"a number has more than {most} digits") from err
    except RecursionError as err:
        raise _LineError("lists or objects are nested too deeply") from err
    if not isinstance(value, dict):
        raise _LineError(f"{describe_value(value)}, want a JSON object")
    return cast("dict[str, object]", value)


def _json_reason(err: json.JSONDecodeError, text: str) -> str:
    truncated = err.pos >= len(text) or err.msg.startswith("Unterminated string")
    kind = "truncated" if truncated else "invalid"
    return f"{kind} JSON: {err.msg} (column {err.colno} of {len(text)})"
