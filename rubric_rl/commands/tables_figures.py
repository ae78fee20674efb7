"""The figures of `rubric-rl tables`: cells into what is drawn, and into files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rubric_rl.paper_tables.cells import Cell
from rubric_rl.paper_tables.layout import LAYOUTS, CellKey
from rubric_rl.paper_tables.render import Exhibit
from rubric_rl.plots.figure2 import draw_panels
from rubric_rl.plots.paper_figures import Panel, Series, draw_dynamics, draw_shares
from rubric_rl.plots.style import Figure, as_png, as_svg
from rubric_rl.theory.figure2 import figure2

_BASE = "base"


def drawn(exhibit: Exhibit) -> Iterator[tuple[str, bytes | str]]:
    """Names of files and their contents."""
    if exhibit.name == "figure2":
        numbers = figure2()
        yield "figure2a.csv", numbers.by_case.as_csv()
        yield "figure2b.csv", numbers.by_top_share.as_csv()
        figure = draw_panels(numbers)
    else:
        figure = _dynamics(exhibit) if exhibit.name == "figure4" else _shares(exhibit)
    yield f"{exhibit.name}.png", as_png(figure)
    yield f"{exhibit.name}.svg", as_svg(figure)


def _shares(exhibit: Exhibit) -> Figure:
    layout = LAYOUTS[exhibit.name]
    (column,) = layout.columns
    keys = {row: CellKey(exhibit=exhibit.name, row=row, column=column) for row in exhibit.rows}
    ours = {cell.key: cell.shown for cell in exhibit.cells}
    known = [r for r in layout.rows if keys[r] in ours or keys[r] in exhibit.paper]
    # What records added comes last, the largest first.
    more = sorted(keys.keys() - layout.rows.keys(), key=lambda row: -ours[keys[row]])
    rows = [*known, *more] or list(layout.rows)
    return draw_shares(
        layout.title,
        rows,
        [ours.get(keys[row]) for row in rows],
        [exhibit.paper.get(keys[row]) for row in rows],
    )


def _dynamics(exhibit: Exhibit) -> Figure:
    layout = LAYOUTS["figure4"]
    ours = {cell.key: cell for cell in exhibit.cells}
    panels = [
        Panel(
            title=label.label,
            series=(
                *_series({k: v for k, v in exhibit.paper.items() if k.column == column}, None),
                *_series({k: c.shown for k, c in ours.items() if k.column == column}, ours),
            ),
        )
        for column, label in layout.columns.items()
    ]
    return draw_dynamics(panels)


def _series(
    values: Mapping[CellKey, float], cells: Mapping[CellKey, Cell] | None
) -> Iterator[Series]:
    """The curves of one panel; each begins at the base policy unless it has a step 0."""
    rows = LAYOUTS["figure4"].rows
    start = [key for key in values if key.row == _BASE]
    for number, (row, label) in enumerate(rows.items()):
        own = sorted((k for k in values if k.row == row), key=lambda key: key.step or 0)
        if not own:
            continue
        is_level = own[0].step is None
        if row != _BASE and not is_level and own[0].step != 0:
            own = [*start, *own]
        yield Series(
            label=label,
            number=number,
            steps=() if is_level else tuple(key.step or 0 for key in own),
            values=tuple(values[key] for key in own),
            intervals=tuple(None if cells is None else cells[key].interval for key in own),
            is_paper=cells is None,
        )
