"""What a person sees while a run is going.

On a terminal, a bar that stays at the bottom:

    step 6/12  ########--------  0:03:10 left
    reward 0.512  KL 0.0031  coverage 1.00  118 tokens/s
    31.4 s: rollout 17.4, judge wait 0.1, learner 12.9, weight sync 0.8
    rollout: 12 of 32 samples, 9 judged

Elsewhere one plain line a step. Notes and warnings go above the bar.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rubric_rl.observability.metrics import check_names
from rubric_rl.observability.printable import printable
from rubric_rl.observability.records import StepRecord

# (metric, how it is shown): what a person looks at first.
_HEADLINE: tuple[tuple[str, str], ...] = (
    ("reward/mean", "reward {:.3f}"),
    ("policy/kl_ref", "KL {:.4f}"),
    ("judge/coverage_mean", "coverage {:.2f}"),
    ("rollout/tokens_per_s", "{:.0f} tokens/s"),
    ("judge/spent_usd", "judges ${:.2f}"),
    ("sft/loss", "loss {:.4f}"),
    ("sft/eval_loss", "held-out loss {:.4f}"),
    ("rm/loss", "loss {:.4f}"),
    ("rm/accuracy", "accuracy {:.3f}"),
    ("rm/eval_accuracy", "held-out accuracy {:.3f}"),
)
# Not worth a word as long as it is 0.
_SHOWN_ABOVE_0 = frozenset({"judge/spent_usd"})
_PHASES: tuple[tuple[str, str], ...] = (
    ("time/rollout_s", "rollout {:.1f}"),
    ("time/judge_wait_s", "judge wait {:.1f}"),
    ("time/learner_s", "learner {:.1f}"),
    ("time/weight_sync_s", "weight sync {:.1f}"),
    ("time/refinement_s", "refinement {:.1f}"),
    ("time/eval_s", "eval {:.1f}"),
    ("time/checkpoint_s", "checkpoint {:.1f}"),
)
_REFRESH_PER_S = 4
# Remaining time is told from the steps of this window; one step may take many minutes.
_SPEED_WINDOW_S = 4 * 3600.0
# Without a bar a long phase still shows that it is alive, without flooding a log file.
_PLAIN_STATUS_EVERY_S = 30.0


class Console:
    """A sink for people.

    Nothing is drawn before the first `status`, `begin` or `log`, and nothing
    after `close`; notes and warnings can be written at any time.
    """

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        progress: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stream` defaults to standard output; `progress` False forces plain lines."""
        self._rich = RichConsole(file=stream or sys.stdout, highlight=False)
        self._clock = clock
        self._last_line_at = clock()
        self._total_steps: int | None = None
        self._summary = ""
        self._phases = ""
        self._status = ""
        self._progress = _make_progress(self._rich)
        self._live = self._make_live() if progress and self._rich.is_terminal else None

    def begin(self, total_steps: int, *, completed: int = 0) -> None:
        """Say how long the run is; `completed` steps are behind it when it is resumed."""
        self._total_steps = total_steps
        self._progress.add_task("step", total=total_steps, completed=completed)
        self._draw()

    def status(self, text: str) -> None:
        """What is going on within the step; each text replaces the last."""
        self._status = text
        if self._live is not None:
            self._draw()
        elif self._clock() - self._last_line_at >= _PLAIN_STATUS_EVERY_S:
            self._line(text)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._line(text)

    def warn(self, text: str) -> None:
        """A line that stays and stands out."""
        self._line(f"warning: {text}", style="yellow")

    def show(self, markdown: str) -> None:
        """A document: laid out on a terminal, as it is elsewhere."""
        if self._rich.is_terminal:
            self._rich.print(Markdown(markdown))
        else:
            self._line(markdown.rstrip("\n"))

    def log(self, record: StepRecord) -> None:
        check_names(record.metrics)
        summary, phases = "  ".join(_shown(record.metrics, _HEADLINE)), _phase_times(record.metrics)
        # An evaluation on its own has no summary: that of the step before stays on the bar.
        self._summary, self._phases = summary or self._summary, phases or self._phases
        for task_id in self._progress.task_ids:
            self._progress.update(task_id, completed=record.step)
        if self._live is None:
            self._line(self._step_line(record.step, summary, phases))
        self._draw()
        if "rubric/refined_prompts" in record.metrics:
            self._line(_refinement_line(record))
        if "eval/reward_mean" in record.metrics:
            self._line(_eval_line(record))

    def close(self) -> None:
        """Leave the bar as it is and stop drawing."""
        self._status = ""
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def _make_live(self) -> Live:
        return Live(
            console=self._rich,
            get_renderable=self._render,
            refresh_per_second=_REFRESH_PER_S,
        )

    def _render(self) -> RenderableType:
        lines = [
            Text(printable(line)) for line in (self._summary, self._phases, self._status) if line
        ]
        return Group(self._progress, *lines) if self._progress.tasks else Group(*lines)

    def _draw(self) -> None:
        if self._live is not None and not self._live.is_started:
            self._live.start()

    def _line(self, text: str, *, style: str = "") -> None:
        self._last_line_at = self._clock()
        self._rich.print(Text(printable(text), style=style), soft_wrap=True)

    def _step_line(self, step: int, summary: str, phases: str) -> str:
        total = "" if self._total_steps is None else f"/{self._total_steps}"
        parts = [f"step {step}{total}", summary, phases]
        return "  ".join(part for part in parts if part)


def _make_progress(console: RichConsole) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        speed_estimate_period=_SPEED_WINDOW_S,
    )


def _shown(metrics: Mapping[str, float], shown: tuple[tuple[str, str], ...]) -> Iterator[str]:
    return (
        form.format(metrics[name])
        for name, form in shown
        if name in metrics and (metrics[name] > 0 or name not in _SHOWN_ABOVE_0)
    )


def _phase_times(metrics: Mapping[str, float]) -> str:
    phases = ", ".join(_shown(metrics, _PHASES))
    if "time/step_s" not in metrics:
        return phases
    return f"{metrics['time/step_s']:.1f} s" + (f": {phases}" if phases else "")


def _refinement_line(record: StepRecord) -> str:
    metrics = record.metrics
    line = (
        f"step {record.step}: refined the rubrics of {metrics['rubric/refined_prompts']:.0f} "
        f"prompts: {metrics['rubric/accepted']:.0f} proposals accepted, "
        f"{metrics['rubric/rejected']:.0f} rejected, {metrics['rubric/failed']:.0f} failed"
    )
    if "rubric/top_ties_before" in metrics:
        line += (
            f"; answers tied at the top {metrics['rubric/top_ties_before']:.2f} -> "
            f"{metrics['rubric/top_ties_after']:.2f}"
        )
    return line


def _eval_line(record: StepRecord) -> str:
    metrics = record.metrics
    line = f"step {record.step}: held-out reward {metrics['eval/reward_mean']:.3f}"
    if "eval/reward_ci95" in metrics:
        line += f" +/- {metrics['eval/reward_ci95']:.3f}"
    anchor = metrics.get("eval/anchor_reward_mean")
    if anchor is not None and anchor != metrics["eval/reward_mean"]:
        line += f", {anchor:.3f} under the run's first rubrics"
    if "eval/gold_mean" in metrics:
        line += f", gold {metrics['eval/gold_mean']:.3f}"
    return line


# ----------------------------------------------------------------------------
# Logging


class _WarningsToConsole(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(level=logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.warn(record.getMessage())


def quiet_logging(run_dir: Path, console: Console) -> ExitStack:
    """Send logging to `logs/controller.log`, and warnings of this package to the console too.

    In effect at once. Closing the returned stack, or leaving it as a context
    manager, restores the handlers that were there.
    """
    path = run_dir / "logs" / "controller.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    stack = ExitStack()
    stack.callback(to_file.close)
    _replace_handlers(logging.getLogger(), to_file, stack)
    _replace_handlers(logging.getLogger("rubric_rl"), _WarningsToConsole(console), stack)
    logging.captureWarnings(True)
    stack.callback(logging.captureWarnings, False)
    return stack


def _replace_handlers(target: logging.Logger, handler: logging.Handler, stack: ExitStack) -> None:
    handlers, level = target.handlers[:], target.level
    target.handlers[:] = [handler]
    target.setLevel(logging.INFO)

    def restore() -> None:
        target.handlers[:] = handlers
        target.setLevel(level)

    stack.callback(restore)
