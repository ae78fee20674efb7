"""What `rubric-rl eval tail` leaves: its JSON, and a table with the same in words."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from rubric_rl.commands.eval_text import estimate_cells
from rubric_rl.commands.judge_progress import dollars
from rubric_rl.evaluation.labels import Labels
from rubric_rl.evaluation.tail_accuracy import TailAccuracy

FORMAT = "rubric_rl.tail_accuracy/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailFile:
    """What the output holds."""

    format: str
    regions_by: dict[str, str]
    """What each region is."""
    truth: str
    """The model that was asked about each pair, or `stored preferences`."""
    margin: float | None
    """Preferences no further apart than this are no truth; None for a model."""
    judge_id: str
    """Who graded."""
    num_gradings: int
    seed: int
    regions: tuple[TailAccuracy, ...]
    cost_usd: float
    labels: Labels


def print_tail(result: TailFile) -> None:
    table = Table("region", "figure", "value", "95 % interval", "pairs")
    for region in result.regions:
        table.add_row(
            region.region, "accuracy, ties wrong", *estimate_cells(region.accuracy_ties_wrong)
        )
        table.add_row("", "accuracy, ties half", *estimate_cells(region.accuracy_ties_half))
        table.add_row("", "tie rate", *estimate_cells(region.tie_rate))
    lines = [f"{name}: {what}" for name, what in result.regions_by.items()]
    lines += [
        f"truth: {result.truth}; graded by {result.judge_id}, {result.num_gradings} "
        f"{'grading' if result.num_gradings == 1 else 'gradings'}"
    ]
    lines += [_in_words(region) for region in result.regions]
    if result.cost_usd:
        lines.append(dollars(result.cost_usd))
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def _in_words(region: TailAccuracy) -> str:
    return (
        f"{region.region}: {region.num_pairs} pairs, {region.used} used over "
        f"{region.num_prompts} prompts ({region.right} right, {region.wrong} wrong, "
        f"{region.tied} tied, of these {region.split} without a majority); left out: truth tied "
        f"{region.truth_tied}, truth unknown {region.truth_unknown}, rubric unknown "
        f"{region.rubric_unknown}"
    )
