"""What a record says: its figures, where each stands in the file, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from rubric_rl.errors import DataError
from rubric_rl.evaluation.labels import Labels
from rubric_rl.evaluation.prbench import MEANS

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a record must have to be used, and which of two means is taken."""

    min_coverage: float = 0.9
    """Share of pairs or answers that were judged."""
    prbench_mean: str = MEANS[0]
    """One of PRBench's MEANS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure as its file has it."""

    metric: str
    """Such as `winrate`; see `records`."""
    value: float
    low: float | None = None
    """95 % interval; None where the record has none."""
    high: float | None = None
    num: int | None = None
    """Pairs, answers or labels that it is taken over."""
    field: str
    """Where it stands, such as `figures.win_rate` or `line 3: eval/reward_mean`."""
    name: str | None = None
    """The category or model that it is about."""
    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A file and all that it measured."""

    path: Path
    sha256: str
    how: str
    """Who judged, and how: figures side by side should have the same."""
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    """What a reader of its figures should know."""
    left_out: tuple[str, ...]
    """Why parts of it are no measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file holds, before it is known which file that is."""

    how: str
    measurements: Iterable[Measurement]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def parsed(kind: type[T], content: bytes) -> T:
    """The parts of a JSON file that a dataclass has. Raises DataError."""
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"is damaged or of another version: {where}: {first['msg']}") from err
