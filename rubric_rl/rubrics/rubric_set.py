"""All rubrics of a run at one version, and the file that holds them.

The file is JSONL. The first line says what follows:

    {"format": "rubric_rl.rubric_set/1", "version": 2, "content_hash": "...", "num_rubrics": 64}

and each further line is one rubric: `prompt_id`, `version` and `criteria`, as
`rubrics.validation` documents them.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rubric_rl.errors import DataError
from rubric_rl.rubrics.validation import build_rubric
from rubric_rl.types import Criterion, Lineage, Rubric

FORMAT = "rubric_rl.rubric_set/1"
_HEADER_KEYS = {"format", "version", "content_hash", "num_rubrics"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RubricSet:
    """One rubric for each prompt.

    Raises DataError if a prompt has two rubrics.
    """

    version: int
    rubrics: tuple[Rubric, ...]
    _by_prompt_id: dict[str, Rubric] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_prompt_id: dict[str, Rubric] = {}
        for rubric in self.rubrics:
            if rubric.prompt_id in by_prompt_id:
                raise DataError(f"prompt {rubric.prompt_id!r} has more than one rubric")
            by_prompt_id[rubric.prompt_id] = rubric
        object.__setattr__(self, "_by_prompt_id", by_prompt_id)

    def of(self, prompt_id: str) -> Rubric:
        """The rubric of a prompt. Raises DataError if it has none."""
        if prompt_id not in self._by_prompt_id:
            raise DataError(
                f"no rubric for prompt {prompt_id!r} among the {len(self.rubrics)} rubrics of "
                f"version {self.version}"
            )
        return self._by_prompt_id[prompt_id]

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over all rubric ids by prompt id; order and versions don't matter."""
        ids = [self._by_prompt_id[prompt_id].rubric_id for prompt_id in sorted(self._by_prompt_id)]
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the file, all of it or nothing; the folder must exist."""
        lines = [json.dumps(self._header())]
        lines += [json.dumps(_rubric_as_dict(rubric)) for rubric in self.rubrics]
        # In the same folder, as a rename across file systems is not atomic.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _header(self) -> dict[str, str | int]:
        return {
            "format": FORMAT,
            "version": self.version,
            "content_hash": self.content_hash,
            "num_rubrics": len(self.rubrics),
        }

    @classmethod
    def read(cls, path: Path) -> RubricSet:
        """Read what `write` wrote.

        Raises:
            DataError: names the file and why it isn't what was written: another
                format, a line that doesn't parse, too few rubrics, other content.
        """
        objects = _read_objects(path)
        header = _checked_header(objects[0], path)
        rubrics = tuple(
            _rubric_of(fields, f"{path}, line {line}")
            for line, fields in enumerate(objects[1:], start=2)
        )
        if len(rubrics) != header["num_rubrics"]:
            raise DataError(
                f"{path}: holds {len(rubrics)} rubrics but its header says "
                f"{header['num_rubrics']}: the file is truncated or was altered"
            )
        rubric_set = cls(version=cast("int", header["version"]), rubrics=rubrics)
        if rubric_set.content_hash != header["content_hash"]:
            raise DataError(
                f"{path}: content hash is {rubric_set.content_hash} but its header says "
                f"{header['content_hash']}: the file was altered"
            )
        return rubric_set


def _read_objects(path: Path) -> list[dict[str, object]]:
    """One object a line, at least one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file, want a rubric set") from err
    except UnicodeDecodeError as err:
        raise DataError(f"{path}: not UTF-8 at byte {err.start}: {err.reason}") from err
    if not lines:
        raise DataError(f"{path}: the file is empty, want a header line ({FORMAT})")
    return [_parse_object(text, f"{path}, line {line}") for line, text in enumerate(lines, start=1)]


def _parse_object(text: str, source: str) -> dict[str, object]:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as err:
        raise DataError(f"{source}: truncated or invalid JSON ({err})") from err
    if not isinstance(value, dict):
        raise DataError(f"{source}: not a JSON object")
    return cast("dict[str, object]", value)


def _checked_header(header: dict[str, object], path: Path) -> dict[str, object]:
    if header.get("format") != FORMAT:
        raise DataError(
            f"{path}: the first line has format {header.get('format')!r}, want {FORMAT!r}"
        )
    if set(header) != _HEADER_KEYS or not isinstance(header["version"], int):
        raise DataError(f"{path}: the header {header} is not valid, want {sorted(_HEADER_KEYS)}")
    return header


def _rubric_as_dict(rubric: Rubric) -> dict[str, object]:
    criteria = [criterion_as_dict(criterion) for criterion in rubric.criteria]
    return {"prompt_id": rubric.prompt_id, "version": rubric.version, "criteria": criteria}


def criterion_as_dict(criterion: Criterion) -> dict[str, object]:
    """The JSON form of a criterion, as `rubrics.validation` documents it."""
    fields: dict[str, object] = {
        "id": criterion.cid,
        "text": criterion.text,
        "weight": float(criterion.weight),
        "polarity": criterion.polarity,
    }
    # What has its default is left out: most criteria have nothing but the four above.
    if criterion.kind != "normal":
        fields["kind"] = criterion.kind
    if criterion.axis is not None:
        fields["axis"] = criterion.axis
    if criterion.tags:
        fields["tags"] = list(criterion.tags)
    if criterion.rule is not None:
        fields["rule"] = criterion.rule.as_dict()
    if criterion.lineage is not None:
        fields["lineage"] = _lineage_as_dict(criterion.lineage)
    return fields


def _lineage_as_dict(lineage: Lineage) -> dict[str, object]:
    return {"op": lineage.op, "from": list(lineage.sources)}


def _rubric_of(fields: dict[str, object], source: str) -> Rubric:
    prompt_id, version = fields.get("prompt_id"), fields.get("version")
    if not isinstance(prompt_id, str) or not isinstance(version, int):
        raise DataError(
            f"{source}: got keys {sorted(fields)}, want prompt_id (string), version (integer) "
            "and criteria"
        )
    return build_rubric(prompt_id, fields.get("criteria"), version=version, source=source)
