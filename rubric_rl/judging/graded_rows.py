"""Graded answers on disk: JSONL, one answer with its verdicts a line.

    {"format": "rubric_rl.graded/1", "row_id": "a7", "prompt_id": "h001",
     "content_hash": "...", "answer_hash": "...", "reward": 0.75, "coverage": 1.0, "verdicts": [
        {"cid": "c1", "text": "Names a dose.", "verdict": "met", "reason": "...", ...}],
     "judge_id": "gpt-4.1-mini", "mode": "all", "usage": {...}, ...}

Lines stand in the order in which answers were finished. They are only ever added,
each flushed to the disk, so that a run that is killed anywhere loses what it was
working on and nothing else. An answer that was graded anew has several lines: the
last one counts.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from rubric_rl.errors import DataError
from rubric_rl.types import FailureCause, JudgeUsage, VerdictValue

FORMAT = "rubric_rl.graded/1"
# How every line begins; `encode` puts the format first.
_START = f'{{"format": "{FORMAT}"'.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedVerdict:
    """One criterion with its verdict."""

    cid: str
    text: str
    verdict: VerdictValue
    reason: str
    cause: FailureCause | None
    """Set exactly when the verdict is UNKNOWN."""
    probability: float | None = None
    """The judge's, that the criterion is met; None where it isn't told."""
    votes: tuple[VerdictValue, ...] = ()
    cached: bool = False
    by_rule: bool = False
    """Executed, not judged."""

    def __post_init__(self) -> None:
        if (self.verdict is VerdictValue.UNKNOWN) != (self.cause is not None):
            raise ValueError("cause must be set exactly when the verdict is unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedRow:
    """One answer with its verdicts, in the order of the rubric's criteria."""

    row_id: str
    prompt_id: str
    content_hash: str
    """Of all that the verdicts and the reward depend on; see `grading.content_hash`."""
    answer_hash: str
    """Of prompt and response alone: equal in the gradings of one answer by several judges."""
    reward: float | None
    """None: the answer is unscored."""
    coverage: float
    gated_from: float | None
    verdicts: tuple[GradedVerdict, ...]
    rubric_id: str
    rubric_version: int
    judge_id: str
    template_hash: str
    mode: str
    usage: JudgeUsage
    latency_s: float

    @property
    def num_unknown(self) -> int:
        return sum(verdict.cause is not None for verdict in self.verdicts)


_ROW: TypeAdapter[GradedRow] = TypeAdapter(GradedRow)


def encode(row: GradedRow) -> str:
    """One line of JSON, without its end. Raises ValueError on a NaN or an infinity."""
    payload = {"format": FORMAT, **dataclasses.asdict(row)}
    # A judge's reason may hold half a surrogate pair, which no file takes.
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def decode(line: bytes) -> GradedRow:
    """Inverse of `encode`. Raises ValueError with the reason in one line."""
    payload = json.loads(line)
    found = payload.pop("format", None) if isinstance(payload, dict) else None
    if found != FORMAT:
        raise ValueError(f"format is {found!r}, want {FORMAT!r}")
    try:
        return _ROW.validate_json(json.dumps(payload))
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}") from err


def read_graded(path: Path) -> list[GradedRow]:
    """The rows of a file, of each answer the last one, in the order of first lines.

    A last line that was cut off is left out.

    Raises:
        DataError: the file can't be read, is empty, or names the line that isn't ours and why.
    """
    try:
        content = path.read_bytes()
    except OSError as err:
        raise DataError(f"graded file {str(path)!r} can't be read: {err}") from err
    whole, _ = _split_torn(content)
    rows = _decoded(path, whole)
    if not rows:
        raise DataError(f"{path} holds no graded answer: it is what rubric-rl judge --out writes")
    return list({row.row_id: row for row in rows}.values())


def _split_torn(content: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and what follows the last line's end if a write of ours was cut there."""
    end = content.rfind(b"\n") + 1
    torn = content[end:]
    if torn.startswith(_START) or _START.startswith(torn):
        return content[:end], torn
    return content, b""


def _decoded(path: Path, content: bytes) -> list[GradedRow]:
    rows: list[GradedRow] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line:
            continue
        try:
            rows.append(decode(line))
        except ValueError as err:
            raise DataError(
                f"{path}, line {number}: this is no graded answer ({err}); give a file that "
                "rubric-rl judge wrote, or the path of a new one"
            ) from err
    return rows


class GradedFile:
    """The output of one grading run: what earlier ones left, and the end to add to."""

    def __init__(self, path: Path) -> None:
        """Open or start the file; a last line that was cut off is removed.

        Raises:
            DataError: it can't be opened, another process is writing it, or it holds other things.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
        except OSError as err:
            raise DataError(f"--out {str(path)!r} can't be written: {err}") from err
        try:
            self._lock()
            lines, self.num_torn_bytes = self._read()
        except BaseException:
            self._file.close()
            raise
        self.rows = {row.row_id: row for row in lines}
        self.usage = total_usage(lines)
        """Of all lines, those of answers that were graded anew included."""

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise DataError(
                f"another process is writing {self._path}: wait for it, or give another --out"
            ) from err

    def _read(self) -> tuple[list[GradedRow], int]:
        """The row of each line, and the number of bytes that were cut off."""
        self._file.seek(0)
        whole, torn = _split_torn(self._file.read())
        rows = _decoded(self._path, whole)
        if torn:
            self._file.truncate(len(whole))
        elif whole and not whole.endswith(b"\n"):
            self._file.write(b"\n")
            self._file.flush()
        return rows, len(torn)

    def append(self, rows: Sequence[GradedRow]) -> None:
        """Add rows; they are on the disk when this returns."""
        if not rows:
            return
        self._file.write("".join(f"{encode(row)}\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows |= {row.row_id: row for row in rows}
        self.usage += total_usage(rows)

    def close(self) -> None:
        self._file.close()


def total_usage(rows: Iterable[GradedRow]) -> JudgeUsage:
    """What judging the rows took, together."""
    return sum((row.usage for row in rows), JudgeUsage())
