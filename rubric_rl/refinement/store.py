"""The rubric store: every revision of every rubric, for ever.

One JSONL file that is only ever appended to. Each line is one revision with two
hashes, of its own content and of the line before it of the same prompt:

    {"hash": "...", "previous": "...", "revision": {"prompt_id": "h001", "number": 2, ...}}

So a line can't be lost, altered or put in another order without being noticed,
while different prompts may be refined in any order. A line that a killed process
left half written is cut off when the file is opened; it was never acknowledged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, cast

from pydantic import TypeAdapter, ValidationError

from rubric_rl.errors import DataError
from rubric_rl.refinement.records import Revision
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Rubric

logger = logging.getLogger(__name__)

FILE_NAME = "store.jsonl"

_REVISION: TypeAdapter[Revision] = TypeAdapter(Revision)
_START = "0" * 64


class RubricStore:
    """The revisions of a folder. One process writes at a time; any may read."""

    def __init__(self, folder: Path) -> None:
        """Open the store, or start one.

        Raises:
            DataError: a line was altered, lost or is of another format; nothing is changed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        self._by_prompt: dict[str, list[Revision]] = {}
        self._last_hash: dict[str, str] = {}
        self._file: IO[bytes] | None = None
        if self.path.exists():
            self._load()

    # ------------------------------------------------------------------------
    # Reading

    @property
    def prompt_ids(self) -> list[str]:
        """In the order of their first revisions."""
        return list(self._by_prompt)

    def history(self, prompt_id: str) -> tuple[Revision, ...]:
        """All revisions of one rubric, oldest first; empty for an unknown prompt."""
        return tuple(self._by_prompt.get(prompt_id, ()))

    def head(self, prompt_id: str) -> Rubric | None:
        """The newest version that was accepted; None if there is none."""
        for revision in reversed(self._by_prompt.get(prompt_id, [])):
            if revision.status in ("initial", "accepted"):
                return revision.rubric
        return None

    def versions(self, prompt_id: str) -> list[Rubric]:
        """Every version that was in force, oldest first."""
        return [
            revision.rubric
            for revision in self._by_prompt.get(prompt_id, [])
            if revision.status in ("initial", "accepted") and revision.rubric is not None
        ]

    def rubric_set(self, version: int) -> RubricSet:
        """The heads of all prompts as the set of this version."""
        heads = [head for prompt_id in self.prompt_ids if (head := self.head(prompt_id))]
        return RubricSet(version=version, rubrics=tuple(heads))

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over all histories; the order of prompts doesn't matter."""
        lines = [
            f"{prompt_id} {self._last_hash[prompt_id]}" for prompt_id in sorted(self._by_prompt)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    # ------------------------------------------------------------------------
    # Writing

    def begin(self, rubrics: Iterable[Rubric], *, author: str, phase: str) -> None:
        """Enter rubrics as initial ones, of prompts that have no history yet."""
        for rubric in rubrics:
            if rubric.prompt_id not in self._by_prompt:
                self.append(initial_revision(rubric, author=author, phase=phase))

    def append(self, revision: Revision) -> None:
        """Write a revision; it is on disk when this returns.

        Raises ValueError if it doesn't follow on the history of its prompt.
        """
        history = self._by_prompt.get(revision.prompt_id, [])
        _check_follows(history, revision)
        previous = self._last_hash.get(revision.prompt_id, _START)
        line, digest = _line_of(revision, previous)
        if self._file is None:
            self._file = self.path.open("ab")
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._take(revision, digest)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # ------------------------------------------------------------------------

    def _take(self, revision: Revision, digest: str) -> None:
        self._by_prompt.setdefault(revision.prompt_id, []).append(revision)
        self._last_hash[revision.prompt_id] = digest

    def _load(self) -> None:
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:complete].splitlines(), start=1):
            revision, digest = _parse(line, f"{self.path}, line {number}", self._last_hash)
            self._take(revision, digest)
        if complete < len(content):
            logger.warning("%s: cut off a line that was not written to its end", self.path)
            with self.path.open("r+b") as file:
                file.truncate(complete)
                os.fsync(file.fileno())


def initial_revision(rubric: Rubric, *, author: str, phase: str) -> Revision:
    """The first entry of a rubric."""
    return Revision(
        prompt_id=rubric.prompt_id,
        number=0,
        status="initial",
        version=rubric.version,
        parent_version=None,
        rubric=rubric,
        author=author,
        template_hash="",
        round=0,
        phase=phase,
    )


def _check_follows(history: Sequence[Revision], revision: Revision) -> None:
    if revision.number != len(history):
        raise ValueError(
            f"revision {revision.number} of prompt {revision.prompt_id!r} comes after "
            f"{len(history)} others"
        )
    if (revision.status == "initial") != (not history):
        raise ValueError(f"the first revision of a prompt is its initial rubric: {revision}")
    if revision.status == "accepted" and revision.rubric is None:
        raise ValueError("an accepted revision needs its rubric")


def _line_of(revision: Revision, previous: str) -> tuple[bytes, str]:
    fields = cast("dict[str, object]", _REVISION.dump_python(revision, mode="json"))
    digest = _hash(fields, previous)
    entry = {"hash": digest, "previous": previous, "revision": fields}
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n", digest


def _hash(fields: object, previous: str) -> str:
    text = json.dumps([previous, fields], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(line: bytes, source: str, last_hash: dict[str, str]) -> tuple[Revision, str]:
    try:
        entry = json.loads(line)
        fields, digest, previous = entry["revision"], entry["hash"], entry["previous"]
        revision = _REVISION.validate_python(fields)
    except (ValueError, KeyError, TypeError, ValidationError) as err:
        raise DataError(f"{source}: not a revision of a rubric: {err}") from err
    expected = last_hash.get(revision.prompt_id, _START)
    if previous != expected or digest != _hash(fields, previous):
        raise DataError(
            f"{source}: the hashes don't fit: this line or one before it of prompt "
            f"{revision.prompt_id!r} was altered or removed. Restore the file from a copy"
        )
    return revision, digest
