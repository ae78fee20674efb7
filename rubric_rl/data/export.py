"""Prompts with their rubrics as files: our own JSONL, and the layouts of other trainers.

    canonical   .jsonl              see `data.canonical` and `data.formats.canonical`
    verl        .parquet, .jsonl    see `data.formats.verl`
    openrlhf    .jsonl              prompt (messages), label (the prompt's id), datasource
    trl         .parquet, .jsonl    prompt (messages), prompt_id, domain

Reading a canonical file or one of verl's that was written here gives the prompts that were
written, but for `source`, which says where a record was read. Those of OpenRLHF and TRL name
prompts and hold no rubrics: these are with whoever judges. A file is there completely or not
at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from rubric_rl.data.formats.verl import MARK
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import DataError
from rubric_rl.rubrics.rubric_set import criterion_as_dict
from rubric_rl.types import Criterion, Lineage, Message

if TYPE_CHECKING:
    # Takes long to import, and is needed for Parquet only.
    import pyarrow as pa

Layout = Literal["canonical", "verl", "openrlhf", "trl"]

LAYOUT_SUFFIXES: dict[Layout, tuple[str, ...]] = {
    "canonical": (".jsonl",),
    "verl": (".parquet", ".jsonl"),
    "openrlhf": (".jsonl",),
    "trl": (".parquet", ".jsonl"),
}


def export_prompts(prompts: Sequence[LoadedPrompt], path: Path, layout: Layout) -> None:
    """Write the prompts, in their order; what is at `path` is replaced.

    Raises:
        DataError: the layout isn't written to files with this suffix, or the folder
            doesn't exist.
    """
    check_output(path, layout)
    rows = _rows(prompts, layout)
    if path.suffix.lower() == ".jsonl":
        _write_jsonl(rows, path)
    else:
        _write_parquet(rows, _verl_schema() if layout == "verl" else _trl_schema(), path)


def _rows(prompts: Sequence[LoadedPrompt], layout: Layout) -> Iterator[dict[str, object]]:
    if layout == "verl":
        return _verl_rows(prompts)
    row_of = {"canonical": canonical_row, "openrlhf": openrlhf_row, "trl": trl_row}[layout]
    return map(row_of, prompts)


def check_output(path: Path, layout: Layout) -> None:
    """Raises DataError if `export_prompts` can't write there."""
    suffixes = LAYOUT_SUFFIXES[layout]
    if path.suffix.lower() not in suffixes:
        raise DataError(
            f"{path}: the layout {layout!r} is written to a {' or '.join(suffixes)} file, got the "
            f"suffix {path.suffix!r}"
        )
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent.absolute()} does not exist: create it")


# ----------------------------------------------------------------------------
# Canonical


def canonical_row(prompt: LoadedPrompt) -> dict[str, object]:
    """One record; what has its default is left out."""
    record = prompt.record
    row: dict[str, object] = {"id": record.prompt_id, "domain": record.domain}
    if prompt.split is not None:
        row["split"] = prompt.split
    row["messages"] = _messages(record.messages)
    if record.reference is not None:
        row["reference"] = record.reference
    rubric: dict[str, object] = {"version": prompt.rubric.version} if prompt.rubric.version else {}
    rubric["criteria"] = [criterion_as_dict(criterion) for criterion in prompt.rubric.criteria]
    return row | {"row_hash": record.row_hash, "rubric": rubric}


def _messages(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _lineage(lineage: Lineage) -> dict[str, object]:
    return {"op": lineage.op, "from": list(lineage.sources)}


# ----------------------------------------------------------------------------
# OpenRLHF and TRL


def openrlhf_row(prompt: LoadedPrompt) -> dict[str, object]:
    """One row for --data.input_key prompt --data.label_key label --data.apply_chat_template."""
    record = prompt.record
    return {
        "prompt": _messages(record.messages),
        "label": record.prompt_id,
        "datasource": record.domain,
    }


def trl_row(prompt: LoadedPrompt) -> dict[str, object]:
    """One row in TRL's conversational prompt-only type; reward functions get the other columns."""
    record = prompt.record
    return {
        "prompt": _messages(record.messages),
        "prompt_id": record.prompt_id,
        "domain": record.domain,
    }


# ----------------------------------------------------------------------------
# verl


def _verl_rows(prompts: Iterable[LoadedPrompt]) -> Iterator[dict[str, object]]:
    for index, prompt in enumerate(prompts):
        yield verl_row(prompt, index)


def verl_row(prompt: LoadedPrompt, index: int) -> dict[str, object]:
    """One row. `extra_info` repeats prompt and rubric: it is all that verl hands a reward."""
    record = prompt.record
    messages = _messages(record.messages)
    rubrics = [_verl_criterion(criterion) for criterion in prompt.rubric.criteria]
    reward_model = {"style": "rubric", "ground_truth": "", "rubrics": rubrics}
    return {
        "data_source": record.domain,
        "ability": record.domain,
        "prompt": messages,
        "reward_model": reward_model,
        "extra_info": {
            "format": MARK,
            "index": index,
            "prompt_id": record.prompt_id,
            "domain": record.domain,
            "split": prompt.split,
            "reference": record.reference,
            "row_hash": record.row_hash,
            "rubric_version": prompt.rubric.version,
            "criteria": [_verl_extra(criterion) for criterion in prompt.rubric.criteria],
            "prompt": messages,
            "reward_model": reward_model,
        },
    }


def _verl_criterion(criterion: Criterion) -> dict[str, object]:
    return {
        "criterion": criterion.text,
        "points": criterion.polarity * float(criterion.weight),
        "tags": list(criterion.tags),
    }


def _verl_extra(criterion: Criterion) -> dict[str, object]:
    """What points and tags can't hold. The rule is JSON: rules have unlike fields."""
    rule = criterion.rule
    return {
        "id": criterion.cid,
        "kind": criterion.kind,
        "axis": criterion.axis,
        "rule": None if rule is None else json.dumps(rule.as_dict(), ensure_ascii=False),
        "lineage": None if criterion.lineage is None else _lineage(criterion.lineage),
    }


# ----------------------------------------------------------------------------
# Files


def _write_jsonl(rows: Iterable[dict[str, object]], path: Path) -> None:
    with _replaced(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _write_parquet(rows: Iterable[dict[str, object]], schema: pa.Schema, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows), schema=schema)
    with _replaced(path) as file:
        pq.write_table(table, file)


def _trl_schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    messages = pa.list_(pa.struct({"role": text, "content": text}))
    return pa.schema({"prompt": messages, "prompt_id": text, "domain": text})


def _verl_schema() -> pa.Schema:
    """Said and not inferred: a column that is null in every row would have no type."""
    import pyarrow as pa

    text = pa.string()
    messages = pa.list_(pa.struct({"role": text, "content": text}))
    criterion = {"criterion": text, "points": pa.float64(), "tags": pa.list_(text)}
    reward_model = pa.struct(
        {"style": text, "ground_truth": text, "rubrics": pa.list_(pa.struct(criterion))}
    )
    lineage = pa.struct({"op": text, "from": pa.list_(text)})
    extra = {"id": text, "kind": text, "axis": text, "rule": text, "lineage": lineage}
    extra_info = {
        "format": text,
        "index": pa.int64(),
        "prompt_id": text,
        "domain": text,
        "split": text,
        "reference": text,
        "row_hash": text,
        "rubric_version": pa.int64(),
        "criteria": pa.list_(pa.struct(extra)),
        "prompt": messages,
        "reward_model": reward_model,
    }
    columns = {
        "data_source": text,
        "ability": text,
        "prompt": messages,
        "reward_model": reward_model,
        "extra_info": pa.struct(extra_info),
    }
    return pa.schema(columns)


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the context ends without an error."""
    # In the same folder, as a rename across file systems is not atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
