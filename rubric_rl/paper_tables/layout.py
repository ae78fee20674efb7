"""Which tables and figures there are, and their rows and columns.

    table1   win rates and benchmark scores of each method       rows: methods
    table2   how well rubrics order pairs at each end            rows: regions, columns: conditions
    table3   kinds of change that refinement made                rows: kinds
    table6   the first table's health columns beside reward models
    figure2  Theorem 1; computed, so it has no records
    figure4  win rate, benchmark and held-out reward by step     rows: methods, columns: panels
    figure5  capabilities that the best rubrics ask for          rows: capabilities
    figure6  whose answers the last pairs hold                   rows: models

The numbering is that of arXiv 2509.21500. The conditions have the names of `configs/condition`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rubric_rl.judging.classifier import CAPABILITIES, KINDS

BEST_CONDITION = "great_diverse_pairs"
"""Figures 5 and 6 are about its rubrics."""

_RUBRICS = {
    "initial": "Initial, prompt only",
    "good_pair": "1 good pair",
    "great_pair": "1 great pair",
    "great_pairs": "4 great pairs",
    BEST_CONDITION: "4 great & diverse pairs",
}
_REWARD_MODELS = {
    "rm_on_policy": "Reward model, on-policy",
    "rm_off_policy": "Reward model, off-policy",
    "rm_both": "Reward model, both",
}
_METHODS = {"base": "Base", "sft": "SFT", **_RUBRICS}
CONDITIONS = {**_METHODS, **_REWARD_MODELS}
"""What a record may be labelled with as its condition, and how tables call it."""

_SOURCES = (
    "Gemini-2.5-Pro",
    "GLM-4.5",
    "Mistral-Medium-Latest",
    "DeepSeek-V3",
    "Gemini-2.5-Flash",
    "Qwen3-235B-A22B-Instruct-2507",
    "GPT-4.1",
    "Claude-3-7-Sonnet-20250219",
    "Claude-Sonnet-4-20250514",
    "GPT-4o-2024-05-13",
    "DeepSeek-R1",
    "the other five together",
)

DOMAINS = {"filtered": "Filtered", "lmarena": "LMArena", "health": "Health", "finance": "Finance"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What stands in a column, or in a panel."""

    label: str
    decimals: int
    scale: float = 1.0
    """What a record's value is multiplied with to be shown."""
    domain: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One table or figure."""

    title: str
    row_title: str
    rows: dict[str, str]
    """Names as shown. Records may add models of their own to those of Figure 6."""
    columns: dict[str, Column]
    is_figure: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKey:
    """One cell of a table, or one point or bar of a figure."""

    exhibit: str
    row: str
    column: str
    step: int | None = None
    """Of a point of Figure 4; None for a level that is the same at all steps."""


def _win_rate(domain: str) -> Column:
    return Column(label=f"{DOMAINS[domain]} win %", decimals=1, scale=100.0, domain=domain)


def _reward(domain: str) -> Column:
    return Column(label=f"{DOMAINS[domain]}, held-out reward", decimals=4, domain=domain)


_HEALTHBENCH = Column(label="HealthBench", decimals=4, domain="health")
_PRBENCH = Column(label="PRBench-Finance", decimals=4, domain="finance")
_SHARE = Column(label="share %", decimals=2)

LAYOUTS: dict[str, Layout] = {
    "table1": Layout(
        title="Table 1: win rates and benchmark scores",
        row_title="method",
        rows=_METHODS,
        columns={
            "winrate/filtered": _win_rate("filtered"),
            "winrate/lmarena": _win_rate("lmarena"),
            "winrate/health": _win_rate("health"),
            "healthbench": _HEALTHBENCH,
            "winrate/finance": _win_rate("finance"),
            "prbench": _PRBENCH,
        },
    ),
    "table2": Layout(
        title="Table 2: accuracy of rubrics on pairs, ties wrong, in %",
        row_title="pairs",
        rows={"high": "high reward", "low": "low reward"},
        columns={
            name: Column(label=label, decimals=1, scale=100.0) for name, label in _RUBRICS.items()
        },
    ),
    "table3": Layout(
        title="Table 3: what refinement changed, and on which pairs, in %",
        row_title="kind of change",
        rows={name: name for name in KINDS},
        columns={
            "kind/share": Column(label="share", decimals=1),
            "kind/great": Column(label="of it on great pairs", decimals=1),
            "kind/good": Column(label="on good pairs", decimals=1),
        },
    ),
    "table6": Layout(
        title="Table 6: reward models beside rubrics, health",
        row_title="method",
        rows={**_REWARD_MODELS, "sft": "SFT", **_RUBRICS},
        columns={"winrate/health": _win_rate("health"), "healthbench": _HEALTHBENCH},
    ),
    "figure2": Layout(
        title="Figure 2: Theorem 1",
        row_title="",
        rows={},
        columns={},
        is_figure=True,
        note="computed by rubric_rl.theory.figure2, from no record; `rubric-rl theory` compares "
        "it with reference values, the paper prints none",
    ),
    "figure4": Layout(
        title="Figure 4: training dynamics",
        row_title="method",
        rows=_METHODS,
        columns={
            "winrate/health": _win_rate("health"),
            "healthbench": _HEALTHBENCH,
            "reward/health": _reward("health"),
            "winrate/finance": _win_rate("finance"),
            "prbench": _PRBENCH,
            "reward/finance": _reward("finance"),
        },
        is_figure=True,
    ),
    "figure5": Layout(
        title="Figure 5: what the rubrics ask for",
        row_title="capability",
        rows={name: name for name in CAPABILITIES},
        columns={"capability": _SHARE},
        is_figure=True,
    ),
    "figure6": Layout(
        title="Figure 6: whose answers the last pairs hold",
        row_title="model",
        rows={name: name for name in _SOURCES},
        columns={"source": _SHARE},
        is_figure=True,
    ),
}
