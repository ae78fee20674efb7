"""The formats: their names, how a file is recognised, and who reads it.

path --rows--> recognise (or the format that is asked for) --reader--> PromptFile
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rubric_rl.data.formats.canonical import read_canonical
from rubric_rl.data.formats.healthbench import read_healthbench
from rubric_rl.data.formats.imported import Imported, Reader, parse_options
from rubric_rl.data.formats.junkaiz import read_junkaiz
from rubric_rl.data.formats.openrubrics import read_openrubrics
from rubric_rl.data.formats.points import reward_model_of, tag_strings
from rubric_rl.data.formats.prbench import read_prbench
from rubric_rl.data.formats.rar import read_rar
from rubric_rl.data.formats.rows import items_of, member, parsed
from rubric_rl.data.formats.rubrichub import read_rubrichub
from rubric_rl.data.formats.verl import is_marked, read_verl
from rubric_rl.data.reading import read_jsonl, read_parquet
from rubric_rl.data.records import RawRow
from rubric_rl.errors import DataError

FormatName = Literal[
    "canonical",
    "healthbench",
    "rar",
    "junkaiz",
    "rubrichub",
    "prbench",
    "openrubrics",
    "verl",
]
FormatOption = Literal["auto"] | FormatName

JSONL, PARQUET = ".jsonl", ".parquet"
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatSpec:
    """One format."""

    read: Reader
    columns: tuple[tuple[str, ...], ...]
    """Sets of columns; a file that has all of one set is of this format."""
    options: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = (JSONL, PARQUET)


FORMATS: dict[FormatName, FormatSpec] = {
    "canonical": FormatSpec(
        read=read_canonical, columns=(("messages", "rubric"),), suffixes=(JSONL,)
    ),
    "healthbench": FormatSpec(
        read=read_healthbench,
        columns=(("prompt_id", "prompt", "rubrics"),),
        options=("domain",),
    ),
    "rar": FormatSpec(
        read=read_rar,
        columns=(("question", "rubric"),),
        options=("domain", "essential_gates", "pitfall_polarity"),
    ),
    "junkaiz": FormatSpec(
        read=read_junkaiz,
        columns=(
            ("prompt", "rubrics", "number_of_criteria"),
            ("prompt", "rubrics", "total_weight"),
        ),
        options=("domain",),
    ),
    "rubrichub": FormatSpec(
        read=read_rubrichub, columns=(("question", "id", "rubrics"),), options=("domain",)
    ),
    "prbench": FormatSpec(
        read=read_prbench,
        columns=(("task", "prompt_0", "rubric"),),
        options=("domain", "essential_gates"),
    ),
    "openrubrics": FormatSpec(
        read=read_openrubrics,
        columns=(("instruction", "rubric"),),
        options=("domain", "essential_gates", "weights"),
    ),
    "verl": FormatSpec(
        read=read_verl,
        columns=(("prompt", "reward_model"), ("messages", "reward_model")),
        options=("domain",),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """What one file gave."""

    format: FormatName
    num_rows: int
    imported: Imported


def read_prompt_file(
    path: Path, option: FormatOption, *, what: str, pairs: Sequence[str] = ()
) -> PromptFile:
    """Read a file of prompts with rubrics.

    Args:
        path: The file, .jsonl or .parquet.
        option: Its format; `auto` recognises it by its columns.
        what: What the file is called in messages about it.
        pairs: Options of the format, as KEY=VALUE.

    Raises:
        DataError: the file can't be read, or its format isn't known or is ambiguous.
        ConfigError: an option that the format needs is missing, or one is wrong.
    """
    suffix = _checked_suffix(path, option, what)
    rows = read_parquet(path) if suffix == PARQUET else read_jsonl(path)
    name = recognise(rows, path) if option == "auto" else option
    spec = FORMATS[name]
    imported = spec.read(rows, parse_options(path, spec.options, pairs))
    return PromptFile(format=name, num_rows=len(rows), imported=imported)


def _checked_suffix(path: Path, option: FormatOption, what: str) -> str:
    """The suffix that says how to read the file."""
    suffix = path.suffix.lower()
    allowed = (JSONL, PARQUET) if option == "auto" else FORMATS[option].suffixes
    if suffix in allowed:
        return suffix
    if suffix in (JSONL, PARQUET):
        raise DataError(
            f"{what} is a {suffix} file, but the format {option!r} is read from "
            f"{' or '.join(allowed)}: set the format to auto"
        )
    if option == "auto":
        raise DataError(
            f"{what} has the suffix {path.suffix!r}, so its format can't be recognised: name it "
            f"{JSONL} or {PARQUET}, or say which format it is:{_known_formats()}"
        )
    with path.open("rb") as file:
        is_parquet = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    return PARQUET if is_parquet and PARQUET in allowed else JSONL


# ----------------------------------------------------------------------------
# Recognising


def recognise(rows: Sequence[RawRow], path: Path) -> FormatName:
    """The format, by the columns of the first row.

    Raises:
        DataError: no format has these columns, or more than one does.
    """
    keys = set(rows[0].value)
    found: list[FormatName] = [
        name
        for name, spec in FORMATS.items()
        if any(keys.issuperset(columns) for columns in spec.columns)
    ]
    # One key of ours is enough, so that a misspelt other one is reported as such.
    if not found and path.suffix.lower() == JSONL and keys & {"messages", "rubric"}:
        return "canonical"
    columns = ", ".join(sorted(keys))
    if not found:
        raise DataError(
            f"{path}: the layout with {columns} is not known; allowed are{_known_formats()}"
        )
    if len(found) > 1:
        raise DataError(
            f"{path}: the layout with {columns} could be {' or '.join(found)}: say which format "
            "it is"
        )
    return _dialect(rows, path) if found[0] == "verl" else found[0]


def _dialect(rows: Sequence[RawRow], path: Path) -> FormatName:
    """Which set it is that has verl's columns; `verl` itself if no row tells.

    Every row is looked at, since not every row of a set need show where it is from.
    """
    counts: dict[FormatName, int] = {}
    for row in rows:
        name = _dialect_of(row.value)
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    if len(counts) > 1:
        parts = ", ".join(f"{count} rows of {name}" for name, count in counts.items())
        raise DataError(
            f"{path}: verl's layout with {parts}: split the file, or say which format it is"
        )
    for name in counts:
        return name
    return "verl"


def _dialect_of(fields: Mapping[str, object]) -> FormatName | None:
    if is_marked(fields):
        return "verl"
    extra_info = parsed(fields.get("extra_info"))
    if fields.get("data_source") == "healthbench" or member(extra_info, "healthbench_prompt_id"):
        return "healthbench"
    tags = [
        tag
        for item in items_of(parsed(member(reward_model_of(fields), "rubrics")))
        for tag in tag_strings(member(item, "tags"))
    ]
    if "Rubrics" in fields or any(tag.startswith("verifier:") for tag in tags):
        return "rubrichub"
    if any(tag.startswith(("axis:", "level:")) for tag in tags):
        return "healthbench"
    return None


def _known_formats() -> str:
    """One a line, indented, with the files that it comes in and its columns."""
    return "".join(
        f"\n  {name} ({' or '.join(spec.suffixes)}) with "
        f"{' or '.join(', '.join(columns) for columns in spec.columns)}"
        for name, spec in FORMATS.items()
    )
