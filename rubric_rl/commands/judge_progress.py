"""What a person sees of a grading run: a bar while it goes, a table at its end.

    grading 120/1000  ####--------  0:04:10 left
    960 verdicts, 3 unknown, 41.2/s, $0.31 + $2.27 to come

Elsewhere than on a terminal a plain line now and then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rubric_rl.judging.graded_rows import GradedRow
from rubric_rl.judging.grading_plan import GradingPlan
from rubric_rl.observability.printable import printable

_PLAIN_EVERY_S = 30.0
_REFRESH_PER_S = 4
_NO_PRICE = "not known: set judge.llm.usd_per_million_prompt_tokens and ..._completion_tokens"


def dollars(amount: float) -> str:
    """As money is read: two digits, more where it is little."""
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.2g}"


class GradingProgress:
    """Draws on `stream` until `close`."""

    def __init__(
        self,
        stream: TextIO,
        *,
        total: int,
        done: int,
        spent_usd: float,
        has_price: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`done` and `spent_usd`: rows and money of earlier runs on the same file."""
        self._console = Console(file=stream, highlight=False)
        self._total, self._done, self._earlier_usd = total, done, spent_usd
        self._has_price = has_price
        self._clock = clock
        self._began = self._last_line_at = clock()
        self._rows = self._verdicts = self._unknown = 0
        self._usd = 0.0
        self._bar = _bar(self._console)
        self._task = self._bar.add_task("grading", total=total, completed=done)
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: Group(self._bar, Text(self.stats())),
                refresh_per_second=_REFRESH_PER_S,
            )
            self._live.start()

    def add(self, rows: Sequence[GradedRow]) -> None:
        """Rows that were just finished."""
        self._rows += len(rows)
        self._verdicts += sum(len(row.verdicts) for row in rows)
        self._unknown += sum(row.num_unknown for row in rows)
        self._usd += sum(row.usage.cost_usd for row in rows)
        self._bar.update(self._task, completed=self._done + self._rows)
        is_due = self._clock() - self._last_line_at >= _PLAIN_EVERY_S
        if self._live is None and is_due:
            self._last_line_at = self._clock()
            self.note(f"grading {self._done + self._rows}/{self._total}  {self.stats()}")

    def stats(self) -> str:
        """Verdicts, rate and money so far, and the money still to come at this rate."""
        seconds = max(self._clock() - self._began, 1e-9)
        text = f"{self._verdicts} verdicts, {self._unknown} unknown, "
        text += f"{self._verdicts / seconds:.1f}/s"
        if not self._has_price:
            return f"{text}, price not known"
        left = self._total - self._done - self._rows
        to_come = self._usd / self._rows * left if self._rows else 0.0
        return f"{text}, {dollars(self._earlier_usd + self._usd)} + {dollars(to_come)} to come"

    def note(self, text: str) -> None:
        self._console.print(Text(printable(text)), soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
    )


def print_closing(
    rows: Iterable[GradedRow], spent_usd: float, stream: TextIO, *, has_price: bool
) -> None:
    """The table of all rows of the file that belong to the answers."""
    rows = list(rows)
    rewards = [row.reward for row in rows if row.reward is not None]
    verdicts = [verdict for row in rows for verdict in row.verdicts]
    judged = [verdict for verdict in verdicts if not verdict.by_rule]
    causes = Counter(verdict.cause for verdict in verdicts if verdict.cause is not None)
    table = Table(show_header=False)
    table.add_row("answers", str(len(rows)))
    table.add_row("  scored", str(len(rewards)))
    table.add_row("  unscored", str(len(rows) - len(rewards)))
    if rewards:
        table.add_row("mean reward", f"{sum(rewards) / len(rewards):.4f}")
    table.add_row("verdicts", str(len(verdicts)))
    table.add_row("  by rule", str(len(verdicts) - len(judged)))
    table.add_row("  from the cache", str(sum(verdict.cached for verdict in judged)))
    table.add_row("  unknown", str(causes.total()))
    for cause, count in causes.most_common():
        table.add_row(f"    {cause.value}", str(count))
    table.add_row("calls", str(sum(row.usage.calls for row in rows)))
    table.add_row("tokens", str(sum(row.usage.tokens for row in rows)))
    table.add_row("cost", dollars(spent_usd) if has_price else _NO_PRICE)
    if has_price:
        table.add_row("saved by the cache", dollars(sum(row.usage.saved_usd for row in rows)))
    Console(file=stream, highlight=False).print(table)


def print_plan(plan: GradingPlan, num_done: int, stream: TextIO) -> None:
    """The table of a dry run; `num_done` answers are graded already and not in the plan."""
    table = Table(show_header=False)
    table.add_row("answers to grade", str(plan.num_answers))
    table.add_row("graded already", str(num_done))
    table.add_row("criteria by rule", str(plan.num_rule_criteria))
    table.add_row("criteria by the judge", str(plan.num_llm_criteria))
    table.add_row("calls", str(plan.num_calls))
    table.add_row("prompt tokens, about", str(plan.prompt_tokens))
    table.add_row("reply tokens, about", str(plan.completion_tokens))
    table.add_row("cost, about", _NO_PRICE if plan.cost_usd is None else dollars(plan.cost_usd))
    Console(file=stream, highlight=False).print(table)
