"""What W&B has written to a run's file, which is a log of LevelDB's format."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

_FILE_HEADER = 7
_BLOCK = 32768
_RECORD_HEADER = 7
"""Checksum (4 bytes), length (2), and which part of a record it is (1)."""
_ENDS_A_RECORD = (1, 4)
# W&B's own process may still be writing when a run is finished.
_WRITTEN_S = 30.0


def run_file(folder: Path) -> Path:
    (path,) = folder.glob("*.wandb")
    return path


def records(path: Path) -> list[Any]:
    """All records of a finished run, each with the field set that says what it is."""
    deadline = time.monotonic() + _WRITTEN_S
    while True:
        found = [pb.Record.FromString(payload) for payload in _payloads(path.read_bytes())]
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.05)


def histories(written: Sequence[Any]) -> list[dict[str, Any]]:
    """The rows that were logged."""
    return [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
        for r in written
        if r.HasField("history")
    ]


def _payloads(data: bytes) -> Iterator[bytes]:
    assert data.startswith(b":W&B")
    position, parts = _FILE_HEADER, b""
    while position + _RECORD_HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD_HEADER:
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        begin = position + _RECORD_HEADER
        if begin + length > len(data):
            return
        parts += data[begin : begin + length]
        if data[position + 6] in _ENDS_A_RECORD:
            yield parts
            parts = b""
        position = begin + length
