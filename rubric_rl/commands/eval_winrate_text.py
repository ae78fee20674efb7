"""What `rubric-rl eval winrate` leaves: its JSON, and a table with the same in words."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from rubric_rl.commands.eval_text import estimate_cells, wrapped_causes
from rubric_rl.commands.judge_progress import dollars
from rubric_rl.evaluation.labels import Labels
from rubric_rl.evaluation.outcomes import Orders
from rubric_rl.evaluation.pairing import Side
from rubric_rl.evaluation.winrate import WinRate

FORMAT = "rubric_rl.winrate/1"

By = Literal["llm", "rubric", "preference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRateFile:
    """What the output holds."""

    format: str
    policy: Side
    opponent: Side
    pairs_hash: str
    """SHA-256 over what was compared."""
    by: By
    judge_id: str
    """The model, `rules`, or `stored preferences`."""
    template_hash: str | None
    orders: Orders | None
    """None where there is no order."""
    num_identical: int
    """Pairs of two equal answers: ties that no chat model was asked about."""
    allows_tie: bool
    """Whether the judge itself could say that a pair ties."""
    margin: float
    seed: int
    first_choice_share: float | None
    """Share of the judge's choices, ties aside, for the answer that it was shown first."""
    figures: WinRate
    calls: int
    tokens: int
    cost_usd: float
    labels: Labels


def print_win_rate(result: WinRateFile) -> None:
    figures = result.figures
    table = Table("figure", "value", "95 % interval", "over")
    table.add_row("win rate, ties as half", *estimate_cells(figures.win_rate))
    if figures.controlled is not None:
        named = f"win rate at equal {figures.controlled.control}"
        table.add_row(named, *estimate_cells(figures.controlled.win_rate))
    table.add_row("wins", *estimate_cells(figures.win_share))
    table.add_row("losses", *estimate_cells(figures.loss_share))
    table.add_row("ties", *estimate_cells(figures.tie_share))
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    console.print(_in_words(result), soft_wrap=True, markup=False)


def _in_words(result: WinRateFile) -> str:
    figures, policy, opponent = result.figures, result.policy, result.opponent
    orders = {"flip": "one call, random order", "both": "both orders", None: "no order"}
    tie = "ties allowed" if result.allows_tie else "no tie offered"
    lines = [
        f"{policy.source} against {opponent.source}; judge: {result.judge_id} "
        f"({orders[result.orders]}, {tie})",
        f"{figures.num_pairs} pairs: {figures.wins} wins, {figures.losses} losses, "
        f"{figures.ties} ties, {figures.unknown} unknown (coverage {figures.coverage:.1%})"
        + wrapped_causes(figures.unknown_causes),
    ]
    for side in (policy, opponent):
        if side.num_without or side.num_never_answered or side.num_cut:
            lines.append(
                f"{side.source}: no answer to {side.num_without} prompts of the other side, "
                f"{side.num_never_answered} answers that never stop thinking, "
                f"{side.num_cut} cut at their longest length"
            )
    if result.first_choice_share is not None:
        lines.append(f"the answer shown first was chosen in {result.first_choice_share:.1%}")
    if result.calls:
        lines.append(f"{result.calls} calls, {result.tokens} tokens, {dollars(result.cost_usd)}")
    return "\n".join(lines)
