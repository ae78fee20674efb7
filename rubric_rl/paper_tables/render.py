"""Tables as Markdown, every cell as CSV, and where each is from as JSON.

TABLE.md             the table, its cells numbered, and a footnote for each number
NAME.csv             a line for each cell: value, interval, the paper's value, file
NAME.sources.json    the same with field, SHA-256, who judged, and what was left out
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from rubric_rl import __version__
from rubric_rl.paper_tables.cells import Cell, Filling, LeftOut
from rubric_rl.paper_tables.layout import LAYOUTS, CellKey
from rubric_rl.paper_tables.published import NOTES

FORMAT = "rubric_rl.paper_table/1"

_CSV_HEADER = (
    *("exhibit", "row", "column", "step", "value", "low", "high", "num", "paper"),
    *("file", "field", "sha256"),
)
_SHA_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """A table or figure, ready to be written."""

    name: str
    cells: tuple[Cell, ...]
    """Filled ones in the order of the layout."""
    paper: Mapping[CellKey, float]
    """Of this exhibit, in the order of the layout; empty where they aren't asked for."""

    @property
    def rows(self) -> dict[str, str]:
        """Those of the layout, then what records added."""
        known = LAYOUTS[self.name].rows
        return {**known, **{c.key.row: c.key.row for c in self.cells if c.key.row not in known}}

    @property
    def notes(self) -> list[str]:
        """What a reader should know, cells side by side of different judges first."""
        layout = LAYOUTS[self.name]
        notes = [*_mixed(self.cells), *([layout.note] if layout.note else [])]
        if self.paper and self.name in NOTES:
            notes.append(NOTES[self.name])
        return notes


def exhibit_of(name: str, filling: Filling, paper: Mapping[CellKey, float]) -> Exhibit:
    own = {key: value for key, value in paper.items() if key.exhibit == name}
    return Exhibit(name=name, cells=tuple(filling.of(name)), paper=own)


def _mixed(cells: Sequence[Cell]) -> Iterator[str]:
    by_column: dict[str, dict[str, None]] = {}
    for cell in cells:
        by_column.setdefault(cell.key.column, {})[cell.record.how] = None
    for column, hows in by_column.items():
        if len(hows) > 1:
            label = LAYOUTS[cells[0].key.exhibit].columns[column].label
            yield (
                f"{label}: not all were measured in the same way, so they can't be compared: "
                f"{'; '.join(hows)}"
            )


# ----------------------------------------------------------------------------
# Markdown


def as_markdown(exhibit: Exhibit) -> str:
    """A table with footnotes; what has no record is empty."""
    layout = LAYOUTS[exhibit.name]
    number = {cell.key: place for place, cell in enumerate(exhibit.cells, 1)}
    by_key = {cell.key: cell for cell in exhibit.cells}
    header: list[str] = [layout.row_title]
    lines: list[list[str]] = []
    for column in layout.columns.values():
        header += [column.label, "paper"] if exhibit.paper else [column.label]
    for row, label in exhibit.rows.items():
        line = [label]
        for column in layout.columns:
            key = CellKey(exhibit=exhibit.name, row=row, column=column)
            line.append(f"{_number(by_key[key])} [{number[key]}]" if key in by_key else "")
            if exhibit.paper:
                line.append(_paper_number(exhibit.paper, key))
        lines.append(line)
    rule = ["---", *["---:"] * (len(header) - 1)]
    table = "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in (header, rule, *lines))
    notes = [f"- {_escaped(note)}" for note in exhibit.notes]
    sources = [f"{number[cell.key]}. {_escaped(source_line(cell))}" for cell in exhibit.cells]
    if exhibit.paper:
        notes.append('- "paper": the figures of arXiv 2509.21500, third version.')
    parts = [f"# {layout.title}", table, "\n".join(notes), "\n".join(sources)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _number(cell: Cell) -> str:
    return f"{cell.shown:.{_decimals(cell.key)}f}"


def _paper_number(paper: Mapping[CellKey, float], key: CellKey) -> str:
    return f"{paper[key]:.{_decimals(key)}f}" if key in paper else ""


def _decimals(key: CellKey) -> int:
    return LAYOUTS[key.exhibit].columns[key.column].decimals


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def source_line(cell: Cell) -> str:
    """Where a cell is from, in one line."""
    m, decimals = cell.measurement, _decimals(cell.key)
    said = [f"{cell.record.path}, {m.field}", f"sha256 {cell.record.sha256[:_SHA_DIGITS]}"]
    if m.num is not None:
        said.append(f"n {m.num}")
    if cell.interval is not None:
        low, high = cell.interval
        said.append(f"95 % interval {low:.{decimals}f} to {high:.{decimals}f}")
    if m.labels.model is not None:
        said.append(f"model {m.labels.model}")
    said += [cell.record.how, *cell.record.notes]
    if cell.passed_over:
        said.append(f"newer than {', '.join(str(r.path) for r in cell.passed_over)}")
    return "; ".join(said)


# ----------------------------------------------------------------------------
# CSV and JSON


def as_csv(exhibit: Exhibit) -> str:
    """A line for each cell that has a value, ours or the paper's; ours come first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_HEADER, lineterminator="\n")
    writer.writeheader()
    by_key = {cell.key: cell for cell in exhibit.cells}
    for key in dict.fromkeys((*by_key, *exhibit.paper)):
        line: dict[str, object] = {**asdict(key)}
        if key in by_key:
            line |= _csv_fields(by_key[key])
        if key in exhibit.paper:
            line["paper"] = f"{exhibit.paper[key]:.10g}"
        writer.writerow(line)
    return text.getvalue()


def _csv_fields(cell: Cell) -> dict[str, object]:
    low, high = cell.interval or (None, None)
    numbers = {"value": cell.shown, "low": low, "high": high}
    return {
        **{name: "" if v is None else f"{v:.10g}" for name, v in numbers.items()},
        "num": cell.measurement.num,
        "file": str(cell.record.path),
        "field": cell.measurement.field,
        "sha256": cell.record.sha256,
    }


def as_sources(exhibit: Exhibit, left_out: Sequence[LeftOut]) -> str:
    """JSON that leads from every cell to its file."""
    content = {
        "format": FORMAT,
        "rubric_rl": __version__,
        "exhibit": exhibit.name,
        "title": LAYOUTS[exhibit.name].title,
        "notes": exhibit.notes,
        "cells": [_source(cell) for cell in exhibit.cells],
        "left_out": [asdict(item) for item in left_out],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _source(cell: Cell) -> dict[str, object]:
    key, m, record = cell.key, cell.measurement, cell.record
    return {
        **{name: value for name, value in asdict(key).items() if name != "exhibit"},
        "shown": cell.shown,
        "scale": cell.scale,
        "file": str(record.path),
        "sha256": record.sha256,
        "field": m.field,
        "value": m.value,
        "low": m.low,
        "high": m.high,
        "num": m.num,
        "how": record.how,
        "labels": asdict(m.labels),
        "notes": list(record.notes),
        "passed_over": [str(one.path) for one in cell.passed_over],
    }
