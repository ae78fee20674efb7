"""The closing report as text: Markdown that also reads well as it is."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.observability.printable import printable
from rubric_rl.observability.records import SampleRow
from rubric_rl.observability.report import (
    CriterionChange,
    EvalComparison,
    ExamplePair,
    Interval,
    is_good,
)
from rubric_rl.types import VerdictValue


class NextStep(NamedTuple):
    """A suggestion with the arguments of `rubric-rl train` that carry it out."""

    what: str
    overrides: tuple[str, ...]

    @property
    def command(self) -> str:
        return shlex.join(("rubric-rl", "train", *self.overrides))


NEXT_STEPS: tuple[NextStep, ...] = (
    NextStep(
        "Train longer",
        ("experiment=quickstart_cpu", "run.dir=runs/longer", "run.epochs=4"),
    ),
    NextStep(
        "Use your own prompts and rubrics",
        (
            "experiment=quickstart_cpu",
            "run.dir=runs/own_data",
            "data.path=prompts.jsonl",
            "data.eval_size=16",
            "data.max_train_prompts=null",
            "refinement=none",
        ),
    ),
    NextStep(
        "Have criteria without a rule judged by a model of your own",
        (
            "experiment=quickstart_cpu",
            "run.dir=runs/own_judge",
            "data.path=prompts.jsonl",
            "data.max_train_prompts=null",
            "refinement=none",
            "judge=openai",
            "judge.llm.base_url=http://localhost:8000/v1",
            "judge.llm.model=MODEL",
            "judge.llm.api_key_env=null",
        ),
    ),
)

_WIDTH = 96


def render(
    comparison: EvalComparison,
    run_dir: Path,
    *,
    best_checkpoint: str | None = None,
    gold: str | None = None,
) -> str:
    """The whole report as Markdown; the best checkpoint and gold in words, if there are any."""
    sections = [
        "# Held-out evaluation, before and after",
        _rewards(comparison),
        _account(comparison),
        *(["## Gold", gold] if gold else []),
        "## Criteria most gained",
        _criteria(comparison.most_gained, "No criterion came out well more often."),
        "## Criteria most lost",
        _criteria(comparison.most_lost, "No criterion came out well less often."),
        *(section for pair in comparison.examples for section in _example(pair)),
        "## Where everything is",
        f"`{run_dir}`: `metrics.jsonl`, `samples/`, `checkpoints/`, `logs/`, `config.yaml`",
        *([f"Best checkpoint: {best_checkpoint}"] if best_checkpoint else []),
        "## What to try next",
        *(f"{step.what}:\n\n    {step.command}" for step in NEXT_STEPS),
    ]
    return printable("\n\n".join(sections)) + "\n"


def write_report(
    comparison: EvalComparison,
    run_dir: Path,
    *,
    best_checkpoint: str | None = None,
    gold: str | None = None,
) -> str:
    """Write `report.md` into the run folder and return its text."""
    text = render(comparison, run_dir, best_checkpoint=best_checkpoint, gold=gold)
    write_text_atomic(run_dir / "report.md", text)
    return text


# ----------------------------------------------------------------------------
# Rewards


def _rewards(comparison: EvalComparison) -> str:
    rows = [
        (f"before (step {comparison.step_before})", comparison.before, ""),
        (f"after (step {comparison.step_after})", comparison.after, ""),
        ("difference", comparison.difference, "+"),
    ]
    cells = [(name, f"{i.mean:{sign}.3f}", _span(i, sign)) for name, i, sign in rows]
    return _table(("held-out reward", "mean", "95 % interval"), cells)


def _span(interval: Interval, sign: str) -> str:
    return f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _account(comparison: EvalComparison) -> str:
    c = comparison
    text = (
        f"Means over {c.num_prompts} held-out prompts of their mean reward; the intervals are from "
        f"resampling prompts, the difference is paired. Unscored samples: {c.num_unscored_before} "
        f"of {c.num_samples_before} before, {c.num_unscored_after} of {c.num_samples_after} after."
    )
    if c.is_anchored:
        text += " Rewards are under the rubrics that the run began with, before and after."
    if c.num_prompts_left_out:
        text += f" Prompts left out for lack of a scored sample: {c.num_prompts_left_out}."
    return textwrap.fill(text, _WIDTH)


# ----------------------------------------------------------------------------
# Criteria


def _criteria(changes: Sequence[CriterionChange], none: str) -> str:
    if not changes:
        return none
    cells = [
        (
            f"{change.change:+.0%}",
            f"{change.good_before:.0%} to {change.good_after:.0%}",
            f"{change.weight:g}",
            f"{change.prompt_id} / {change.cid}",
            textwrap.shorten(change.text, 60, placeholder=" ..."),
        )
        for change in changes
    ]
    return _table(("change", "came out well", "weight", "prompt / criterion", "text"), cells)


def _table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rows = [[_cell(text) for text in row] for row in (header, *cells)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|")


# ----------------------------------------------------------------------------
# Examples


def _example(pair: ExamplePair) -> list[str]:
    question = "\n\n".join(m.content for m in pair.before.messages if m.role == "user")
    return [
        f"## Example: {pair.title} ({_cell(pair.before.prompt_id)}, "
        f"sample {pair.before.sample_index})",
        "Prompt:",
        _fenced(question),
        f"Before, {_outcome(pair.before)}:",
        _fenced(pair.before.completion),
        f"After, {_outcome(pair.after)}:",
        _fenced(pair.after.completion),
    ]


def _outcome(row: SampleRow) -> str:
    assert row.reward is not None, "an example is a scored sample"
    if any(c.verdict is VerdictValue.GRADED for c in row.criteria):
        return f"reward {row.reward:.3f} for the whole answer"
    judged = [c for c in row.criteria if c.verdict is not VerdictValue.UNKNOWN]
    good = sum(1 for criterion in judged if is_good(criterion))
    return f"reward {row.reward:.3f}, {good} of {len(row.criteria)} criteria came out well"


def _fenced(text: str) -> str:
    """A code block that the text can't close: its fence is longer than any run of ticks in it."""
    text = text.strip("\n")
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [textwrap.fill(line, _WIDTH) if line.strip() else "" for line in text.split("\n")]
    return "\n".join([fence + "text", *lines, fence])
