"""Finding records under files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rubric_rl.errors import ConfigError, DataError
from rubric_rl.evaluation.labels import NO_LABELS, Labels, parse_labels
from rubric_rl.paper_tables.cells import LeftOut
from rubric_rl.paper_tables.measurement import Limits, Record
from rubric_rl.paper_tables.records import kind_of, read_record

_SKIPPED_FOLDERS = ("checkpoints", "samples", "criteria", "verdicts", "logs")
"""Of run folders: many large files, and none is a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """Labels for the records whose paths match."""

    pattern: str
    """With `*` and `?`; a folder stands for all that is in it."""
    labels: Labels

    def fits(self, path: Path) -> bool:
        text = path.as_posix()
        return fnmatch(text, self.pattern) or fnmatch(text, f"{self.pattern.rstrip('/')}/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The records, and files that are records but can't be used."""

    records: tuple[Record, ...]
    refused: tuple[LeftOut, ...]


def parse_rule(text: str) -> LabelRule:
    """`GLOB:KEY=VALUE,...` as a rule. Raises ConfigError."""
    pattern, _, pairs = text.rpartition(":")
    if not pattern:
        raise ConfigError(f"--label {text!r}: want FILE:KEY=VALUE,..., FILE with * or a folder")
    return LabelRule(pattern=pattern, labels=parse_labels(pairs.split(",")))


def find_records(paths: Sequence[Path], rules: Sequence[LabelRule], limits: Limits) -> Found:
    """Read every record under the paths, each once.

    Raises:
        DataError: a path isn't there, or a file that is named is no record.
        ConfigError: a rule fits no record, or contradicts one.
    """
    records: list[Record] = []
    refused: list[LeftOut] = []
    unused = {rule.pattern: rule for rule in rules}
    for path in _candidates(paths):
        try:
            kind = kind_of(path)
            if kind is None:
                _check_unnamed(path, paths)
                continue
            labels, fitting = _labels_of(path, rules)
            records.append(read_record(path, kind, labels, limits))
        except ConfigError as err:
            raise ConfigError(f"{path}: {err}") from err
        except DataError as err:
            refused.append(LeftOut(path=str(path), reason=str(err)))
            fitting = [rule for rule in rules if rule.fits(path)]
        for rule in fitting:
            unused.pop(rule.pattern, None)
    if unused:
        raise ConfigError(f"--label {next(iter(unused))!r} fits no record that was found")
    return Found(records=tuple(records), refused=tuple(refused))


def _check_unnamed(path: Path, named: Sequence[Path]) -> None:
    if path in named:
        raise DataError("is no record: want what `rubric-rl eval` or `rubrics analyze` wrote")


def _labels_of(path: Path, rules: Sequence[LabelRule]) -> tuple[Labels, list[LabelRule]]:
    fitting = [rule for rule in rules if rule.fits(path)]
    labels = NO_LABELS
    for rule in fitting:
        labels = labels.with_more(rule.labels, f"--label {rule.pattern!r}")
    return labels, fitting


def _candidates(paths: Sequence[Path]) -> Iterator[Path]:
    """Files in the order given, those of a folder by name; a file reached twice comes once."""
    seen: set[Path] = set()
    for root in paths:
        if not root.exists():
            raise DataError(f"{str(root)!r} does not exist: name files or folders with records")
        for path in [root] if root.is_file() else _walked(root):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _walked(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        yield from (Path(folder) / name for name in sorted(names))
