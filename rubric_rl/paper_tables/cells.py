"""Which measurement fills which cell.

A table's cell takes a record without a step, or of the step that the user names for the
domain; a record with a step is a point of Figure 4. Two records for one cell are an error, as
nobody could tell which one a table shows: unless the user wants the newest. The points of a
run's own curve, the rows of Table 3 and the bars of a figure are never mixed from two files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rubric_rl.errors import DataError
from rubric_rl.paper_tables.layout import BEST_CONDITION, CONDITIONS, DOMAINS, LAYOUTS, CellKey
from rubric_rl.paper_tables.measurement import Measurement, Record

_OF_DOMAIN = ("winrate", "reward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A filled cell with where it is from."""

    key: CellKey
    measurement: Measurement
    record: Record
    passed_over: tuple[Record, ...]
    """Older records for the same cell."""

    @property
    def shown(self) -> float:
        """The value in the cell's unit."""
        return self.measurement.value * self.scale

    @property
    def scale(self) -> float:
        return LAYOUTS[self.key.exhibit].columns[self.key.column].scale

    @property
    def interval(self) -> tuple[float, float] | None:
        """In the cell's unit."""
        low, high = self.measurement.low, self.measurement.high
        if low is None or high is None:
            return None
        return low * self.scale, high * self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A record, or a part of one, that is in no cell."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """All cells that have a value, in no order."""

    cells: dict[CellKey, Cell]
    left_out: tuple[LeftOut, ...]

    def of(self, exhibit: str) -> list[Cell]:
        """The cells of one table or figure, rows and columns as in its layout, steps upwards."""
        layout = LAYOUTS[exhibit]
        rows, columns = list(layout.rows), list(layout.columns)

        def place(cell: Cell) -> tuple[int, str, int, int]:
            key = cell.key
            known = key.row in rows
            row = rows.index(key.row) if known else len(rows)
            step = -1 if key.step is None else key.step
            return row, "" if known else key.row, columns.index(key.column), step

        return sorted((c for k, c in self.cells.items() if k.exhibit == exhibit), key=place)


_Placed = tuple[CellKey, Record, Measurement]


def fill(
    records: Sequence[Record], exhibits: Sequence[str], *, steps: Mapping[str, int], latest: bool
) -> Filling:
    """Place every measurement that these tables and figures show.

    Args:
        steps: by domain, the step whose records a table shows beside those without a step.
        latest: of several records for a cell take the file that was written last.

    Raises:
        DataError: several records fill one cell, and `latest` is off.
    """
    placed: list[_Placed] = []
    left_out: dict[LeftOut, None] = {}
    for record in records:
        reasons, taken = [*record.left_out], set[CellKey]()
        for m in record.measurements:
            keys = [_apart(key, m, taken) for key in _keys(m, steps)]
            taken.update(keys)
            placed += [(key, record, m) for key in keys if key.exhibit in exhibits]
            reasons += [] if keys else [_why_nowhere(m)]
        left_out |= {LeftOut(path=str(record.path), reason=reason): None for reason in reasons}
    chosen = _chosen(placed, latest)
    cells = {
        key: Cell(key=key, measurement=m, record=record, passed_over=chosen[_unit(key)][1:])
        for key, record, m in placed
        if chosen[_unit(key)][0] is record
    }
    return Filling(cells=cells, left_out=tuple(left_out))


def _apart(key: CellKey, m: Measurement, taken: set[CellKey]) -> CellKey:
    """Two names of one file that read alike are two rows."""
    return key if key not in taken or m.name is None else replace(key, row=m.name)


def _unit(key: CellKey) -> CellKey:
    """What must come from one file, named by a key."""
    if key.exhibit in ("table3", "figure5", "figure6"):
        return CellKey(exhibit=key.exhibit, row="", column="")
    if key.column.startswith("reward/"):
        return CellKey(exhibit=key.exhibit, row=key.row, column=key.column)
    return key


def _chosen(placed: Sequence[_Placed], latest: bool) -> dict[CellKey, tuple[Record, ...]]:
    """The records for each unit, the one that fills it first. Raises DataError."""
    owners: dict[CellKey, dict[str, Record]] = {}
    for key, record, _ in placed:
        owners.setdefault(_unit(key), {})[str(record.path)] = record
    for unit, own in owners.items():
        if len(own) > 1 and not latest:
            raise DataError(
                f"{len(own)} records fill {describe(unit)}: {' and '.join(own)}. Give one of "
                "them, tell them apart by --label, or take the newest file with --latest"
            )
    return {unit: tuple(sorted(own.values(), key=_age)) for unit, own in owners.items()}


def _age(record: Record) -> int:
    return -record.path.stat().st_mtime_ns


def describe(key: CellKey) -> str:
    """A cell in words, such as `table1, SFT, Health win %`."""
    layout = LAYOUTS[key.exhibit]
    row = {key.row: key.row, **layout.rows}[key.row]
    column = layout.columns[key.column].label if key.column in layout.columns else key.column
    step = "" if key.step is None else f"step {key.step}"
    return ", ".join(part for part in (key.exhibit, row, column, step) if part)


# ----------------------------------------------------------------------------
# Where a measurement belongs


def _keys(m: Measurement, steps: Mapping[str, int]) -> Iterator[CellKey]:
    """Every cell that it fills."""
    metric, condition = m.metric, m.labels.condition
    if metric.startswith("tail/") and condition in LAYOUTS["table2"].columns:
        yield CellKey(exhibit="table2", row=metric.removeprefix("tail/"), column=condition)
    elif m.name is not None:
        yield from _named(m, m.name)
    elif condition is not None:
        column = f"{metric}/{m.labels.domain}" if metric in _OF_DOMAIN else metric
        yield from _of_policy(m, condition, column, steps)


def _named(m: Measurement, name: str) -> Iterator[CellKey]:
    if m.metric.startswith("kind/"):
        yield CellKey(exhibit="table3", row=name, column=m.metric)
    elif m.labels.condition == BEST_CONDITION:
        exhibit = "figure5" if m.metric == "capability" else "figure6"
        rows = LAYOUTS[exhibit].rows
        row = next((row for row in rows if _folded(row) == _folded(name)), name)
        yield CellKey(exhibit=exhibit, row=row, column=m.metric)


def _folded(name: str) -> str:
    """`openai/gpt-4.1` and `GPT-4.1` are one model."""
    return "".join(filter(str.isalnum, name.rpartition("/")[2].casefold()))


def _of_policy(
    m: Measurement, condition: str, column: str, steps: Mapping[str, int]
) -> Iterator[CellKey]:
    step, domain = m.labels.step, m.labels.domain
    for exhibit in ("table1", "table6"):
        layout = LAYOUTS[exhibit]
        at_end = step is None or (domain is not None and domain in steps and steps[domain] == step)
        if condition in layout.rows and column in layout.columns and at_end:
            yield CellKey(exhibit=exhibit, row=condition, column=column)
    layout = LAYOUTS["figure4"]
    if condition not in layout.rows or column not in layout.columns:
        return
    if condition == "base" and step in (None, 0):
        yield CellKey(exhibit="figure4", row=condition, column=column, step=0)
    elif (condition == "sft") == (step is None) and condition != "base":
        yield CellKey(exhibit="figure4", row=condition, column=column, step=step)


def _why_nowhere(m: Measurement) -> str:
    """Why a measurement fills no cell."""
    labels, what = m.labels, m.metric
    if what.startswith("kind/"):
        return "Table 3 is of two stores, good=... and great=..."
    if labels.condition is None:
        return f"{what}: which condition it is of isn't said: give --label FILE:condition=..."
    if m.name is not None:
        return f"{what} of {labels.condition}: Figures 5 and 6 are of {BEST_CONDITION}"
    if labels.condition not in CONDITIONS:
        return f"{what}: condition={labels.condition} is none of {', '.join(CONDITIONS)}"
    if what in _OF_DOMAIN and labels.domain not in DOMAINS:
        said = "isn't said" if labels.domain is None else f"{labels.domain} is none of the paper's"
        return f"{what}: its domain {said}: give --label FILE:domain=... of {', '.join(DOMAINS)}"
    return f"{what} of {labels} is in no table"
