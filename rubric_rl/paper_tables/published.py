"""The figures that arXiv 2509.21500 (third version) prints, to stand beside ours.

Facts, carried over by hand; percent where a table shows percent. Those of Figure 4 are the
points of the authors' vector graphics. Figure 2 has no printed figures: what ours is held to
is in `theory.golden`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rubric_rl.judging.classifier import KINDS
from rubric_rl.paper_tables.layout import LAYOUTS, CellKey

NOTES: dict[str, str] = {
    "table1": "The paper's HealthBench column is its health runs at step 106, its finance columns "
    "are step 320. One seed; it prints no intervals.",
    "table2": "The paper counts ties as wrong, which is why values below 50 % can occur.",
    "table6": "The paper's SFT has 0.3094 here and 0.2999 in its Table 1.",
    "figure4": "The paper's points are read off the vector graphics of its authors; its base "
    "policy has 8.3 % here and 10.8 % in Table 1.",
    "figure6": "The paper tells GPT-5, o3, o1, o4-mini and Kimi-K2 together only.",
}

_TABLE_1 = {
    "base": (5.2, 4.1, 10.8, 0.1721, 5.8, 0.1738),
    "sft": (35.9, 29.6, 25.8, 0.2999, 26.0, 0.2218),
    "initial": (31.3, 29.7, 21.7, 0.3004, 37.2, 0.2693),
    "good_pair": (33.5, 32.8, 22.4, 0.2912, 39.1, 0.2694),
    "great_pair": (36.8, 33.1, 26.5, 0.3163, 42.2, 0.2838),
    "great_pairs": (38.7, 34.7, 31.4, 0.3348, 48.9, 0.2961),
    "great_diverse_pairs": (39.7, 35.1, 34.4, 0.3513, 49.6, 0.3018),
}
_TABLE_2 = {"high": (40.3, 42.2, 45.8, 49.2, 47.9), "low": (66.2, 67.9, 66.7, 68.9, 69.8)}
# Share, then its parts on great and on good pairs, in the order of KINDS.
_TABLE_3 = (
    (16.7, 52.6, 47.4),
    (11.7, 48.2, 51.8),
    (8.9, 48.5, 51.5),
    (7.2, 55.9, 44.1),
    (6.6, 43.5, 56.5),
    (6.2, 54.7, 45.3),
    (5.9, 49.0, 51.0),
    (5.6, 44.4, 55.6),
    (4.5, 51.4, 48.6),
    (4.4, 41.6, 58.4),
    (3.5, 54.1, 45.9),
    (3.3, 50.2, 49.8),
    (3.3, 51.8, 48.2),
    (2.3, 55.0, 45.0),
    (2.1, 53.8, 46.2),
    (1.9, 50.3, 49.7),
    (1.8, 58.9, 41.1),
    (1.8, 55.2, 44.8),
    (1.0, 55.5, 44.5),
    (0.9, 32.8, 67.2),
    (0.5, 43.8, 56.2),
)
_TABLE_6 = {
    "rm_on_policy": (26.8, 0.3036),
    "rm_off_policy": (22.4, 0.2798),
    "rm_both": (30.7, 0.3032),
    "sft": (25.8, 0.3094),
    **{name: own[2:4] for name, own in _TABLE_1.items() if name not in ("base", "sft")},
}

# Of each panel: its steps; where all curves begin, and SFT's level; then each condition's points.
_Panel = tuple[Sequence[int], float, float, Mapping[str, Sequence[float]]]
_FIGURE_4: dict[str, _Panel] = {
    "winrate/health": (
        range(20, 201, 20),
        8.3,
        26.0,
        {
            "initial": (16.9, 23.6, 18.6, 19.0, 16.9, 14.7, 15.9, 15.1, 15.9, 13.7),
            "good_pair": (17.9, 25.0, 23.6, 21.4, 19.2, 19.0, 19.0, 20.2, 17.9, 16.5),
            "great_pair": (17.1, 26.2, 30.6, 28.0, 21.6, 21.8, 25.2, 17.3, 21.2, 18.6),
            "great_pairs": (17.5, 24.8, 29.8, 33.5, 31.5, 29.6, 33.9, 29.2, 30.0, 26.6),
            "great_diverse_pairs": (15.1, 25.6, 31.1, 30.6, 31.7, 30.9, 31.5, 29.4, 26.2, 28.4),
        },
    ),
    "healthbench": (
        (40, 106, 160, 200),
        0.1721,
        0.2999,
        {
            "initial": (0.2992, 0.3004, 0.2720, 0.2754),
            "good_pair": (0.3129, 0.2912, 0.3016, 0.2924),
            "great_pair": (0.3150, 0.3163, 0.3096, 0.3000),
            "great_pairs": (0.3120, 0.3348, 0.3395, 0.3382),
            "great_diverse_pairs": (0.3173, 0.3513, 0.3273, 0.3302),
        },
    ),
    "winrate/finance": (
        (80, 160, 240, 320),
        5.8,
        26.0,
        {
            "initial": (29.0, 41.6, 35.9, 37.2),
            "good_pair": (34.2, 44.9, 41.6, 39.1),
            "great_pair": (33.2, 43.6, 45.7, 42.2),
            "great_pairs": (36.1, 52.9, 49.4, 48.9),
            "great_diverse_pairs": (40.1, 51.1, 50.7, 49.6),
        },
    ),
    "prbench": (
        (80, 160, 240, 320),
        0.1737,
        0.2218,
        {
            "initial": (0.2411, 0.2764, 0.2734, 0.2693),
            "good_pair": (0.2417, 0.2775, 0.2726, 0.2694),
            "great_pair": (0.2385, 0.2834, 0.2857, 0.2838),
            "great_pairs": (0.2545, 0.2971, 0.2937, 0.2961),
            "great_diverse_pairs": (0.2601, 0.2892, 0.2963, 0.3018),
        },
    ),
}
# In the order of their layouts.
_FIGURE_5 = (
    *(19.22, 11.11, 8.40, 7.81, 7.13, 7.09, 6.75, 5.79, 4.72, 3.93),
    *(3.67, 3.67, 3.58, 2.63, 1.27, 1.25, 0.84, 0.68, 0.33, 0.13),
)
_FIGURE_6 = (13.64, 10.39, 9.94, 9.67, 9.26, 8.77, 7.81, 6.16, 6.12, 5.95, 5.62, 6.67)


def published() -> dict[CellKey, float]:
    """Every figure by its cell, in the unit that the cell is shown in."""
    found = {
        **_grid("table1", _TABLE_1),
        **_grid("table2", _TABLE_2),
        **_grid("table3", dict(zip(KINDS, _TABLE_3, strict=True))),
        **_grid("table6", _TABLE_6),
        **_column("figure5", _FIGURE_5),
        **_column("figure6", _FIGURE_6),
    }
    for panel, (steps, start, sft, curves) in _FIGURE_4.items():
        found[CellKey(exhibit="figure4", row="base", column=panel, step=0)] = start
        found[CellKey(exhibit="figure4", row="sft", column=panel)] = sft
        for condition, values in curves.items():
            for step, value in zip(steps, values, strict=True):
                key = CellKey(exhibit="figure4", row=condition, column=panel, step=step)
                found[key] = value
    return found


def _grid(exhibit: str, rows: Mapping[str, Sequence[float]]) -> dict[CellKey, float]:
    columns = LAYOUTS[exhibit].columns
    return {
        CellKey(exhibit=exhibit, row=row, column=column): value
        for row, values in rows.items()
        for column, value in zip(columns, values, strict=True)
    }


def _column(exhibit: str, values: Sequence[float]) -> dict[CellKey, float]:
    rows = LAYOUTS[exhibit].rows
    return _grid(exhibit, {row: (value,) for row, value in zip(rows, values, strict=True)})
