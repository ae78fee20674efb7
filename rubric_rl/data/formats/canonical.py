"""Our own files, with what an import or export adds to a record.

`data.canonical` documents a record. Beside it a file that was written by an import
or export may state

    row_hash         SHA-256 (hex) of the row that the prompt first came from
    rubric.version   whole number, 0 if it isn't there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from rubric_rl.data.canonical import parse_canonical
from rubric_rl.data.formats.imported import Imported, ReadOptions
from rubric_rl.data.formats.rows import RowError
from rubric_rl.data.formats.verl import checked_hash
from rubric_rl.data.reading import list_problems
from rubric_rl.data.records import LoadedPrompt, RawRow
from rubric_rl.errors import DataError
from rubric_rl.rubrics.validation import describe_value


def read_canonical(rows: Sequence[RawRow], options: ReadOptions) -> Imported:
    """Every prompt of the file; no options.

    Raises:
        DataError: lists all problems: the format is ours, so a file with a bad record
            is refused as a whole.
    """
    bare = [RawRow(source=row.source, value=_without_additions(row)) for row in rows]
    additions: list[tuple[str, int]] = []
    problems: list[str] = []
    for row in rows:
        try:
            additions.append((_row_hash(row), _version(row)))
        except RowError as err:
            problems.append(f"{row.source}: {err.what}")
    if problems:
        raise DataError(f"{options.path} is not a valid prompt file:{list_problems(problems)}")
    loaded = parse_canonical(bare, options.path)
    return Imported(
        loaded=tuple(
            _with_additions(prompt, row_hash, version)
            for prompt, (row_hash, version) in zip(loaded, additions, strict=True)
        )
    )


def _without_additions(row: RawRow) -> dict[str, object]:
    value = {key: member for key, member in row.value.items() if key != "row_hash"}
    rubric = value.get("rubric")
    if isinstance(rubric, dict):
        fields = cast("dict[str, object]", rubric)
        value["rubric"] = {key: fields[key] for key in fields if key != "version"}
    return value


def _with_additions(prompt: LoadedPrompt, row_hash: str, version: int) -> LoadedPrompt:
    return replace(
        prompt,
        record=replace(prompt.record, row_hash=row_hash),
        rubric=replace(prompt.rubric, version=version),
    )


def _row_hash(row: RawRow) -> str:
    stated = row.value.get("row_hash")
    return row.row_hash if stated is None else checked_hash(stated)


def _version(row: RawRow) -> int:
    rubric = row.value.get("rubric")
    version = cast("dict[str, object]", rubric).get("version") if isinstance(rubric, dict) else None
    if version is None:
        return 0
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        got = describe_value(version)
        raise RowError(f"rubric: version: got {got}, want a whole number from 0 on")
    return version
