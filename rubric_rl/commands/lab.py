"""`rubric-rl lab`: does refining rubrics delay over-optimisation? A gold-reward experiment on CPU.

    policy, pools -> `rubrics build` for each condition -> `train` against each proxy
        -> held-out answers scored with a hidden gold rubric -> report.md, CSV, plots

The policy is a model of half a million parameters that is trained here first. The same command goes
on where it stopped: a complete run isn't repeated, a stopped one resumes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from rubric_rl.commands.output_folder import OutputFolder
from rubric_rl.commands.rubrics_build import main as build_rubrics
from rubric_rl.config.compose import compose
from rubric_rl.errors import ConfigError, RunFolderError
from rubric_rl.lab.build import build_proxy
from rubric_rl.lab.comparison import condition_curves, differences
from rubric_rl.lab.gold import gold_score
from rubric_rl.lab.measures import read_run
from rubric_rl.lab.plan import CONDITION_SOURCES, LabPlan, in_words, keep_setup
from rubric_rl.lab.prompts import questions
from rubric_rl.lab.report import (
    Facts,
    conclusion,
    curves_csv,
    differences_csv,
    mean_gold,
    report,
    runs_csv,
)
from rubric_rl.lab.small_policy import PolicySettings, prepare_policy
from rubric_rl.lab.trainings import run_trainings
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.refinement.candidates import read_pool
from rubric_rl.rubrics.rubric_set import RubricSet

_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    plan = LabPlan(
        out=args.out,
        conditions=tuple(args.conditions.split(",")),
        seeds=_seeds(args.seeds),
        steps=args.steps,
        eval_every=args.eval_every,
        parallel=args.parallel,
        policy=PolicySettings(),
        overrides=tuple(args.overrides),
    )
    compose(plan.train_overrides(plan.runs[0]))  # what is wrong with an override is told now
    if args.dry_run:
        sys.stdout.write(f"{in_words(plan)}\n")
        return 0
    keep_setup(plan)
    _say(in_words(plan))
    # A job's end reaches the trainings as Ctrl-C does: each leaves a checkpoint.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_lab(plan, prepare=prepare_policy, train=run_trainings)
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped: {plan.out} has what is done; run it again\n")
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl lab",
        description="Do refined rubrics delay over-optimisation? A gold-reward experiment on CPU.",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="SECTION.KEY=VALUE of each training"
    )
    parser.add_argument("--out", type=Path, required=True, help="the laboratory's folder")
    parser.add_argument(
        "--seeds", default="0,1,2", help="seeds, as in 0,1,2 (the default)", metavar="N,N"
    )
    parser.add_argument("--steps", type=int, default=60, help="GRPO steps of a run (60)")
    parser.add_argument(
        "--eval-every", type=int, default=5, help="steps between evaluations (5)", metavar="N"
    )
    parser.add_argument(
        "--conditions",
        default=",".join(CONDITION_SOURCES),
        help=f"some of {','.join(CONDITION_SOURCES)} (all)",
        metavar="NAME,NAME",
    )
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time (2)", metavar="N")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the runs and a time estimate; start nothing"
    )
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    if not all(part.isdigit() for part in text.split(",")):
        raise ConfigError(f"--seeds {text}: want whole numbers from 0 parted by commas, as 0,1,2")
    return tuple(dict.fromkeys(int(part) for part in text.split(",")))


# ----------------------------------------------------------------------------
# Stages


Prepare = Callable[[Path, PolicySettings], Path]
Train = Callable[[LabPlan, Callable[[str], None]], Awaitable[None]]


def run_lab(plan: LabPlan, *, prepare: Prepare, train: Train) -> int:
    """All stages. Returns the exit code.

    Args:
        prepare: makes the policy, as `prepare_policy`.
        train: completes the plan's runs, as `run_trainings`.
    """
    with _timed(plan, "policy"):
        prepare(plan.model_dir, plan.policy)
    with _timed(plan, "rubrics"):
        for run in plan.runs:
            build_proxy(plan, run, _quiet_build)
    with _timed(plan, "trainings"):
        asyncio.run(_awaited(train(plan, _say)))
    return _report(plan)


async def _awaited(trainings: Awaitable[None]) -> None:
    await trainings


def _quiet_build(arguments: Sequence[str]) -> int:
    """Its account of each of fifteen builds is in the store; only failures are for here."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = build_rubrics(arguments)
    if code != 0:
        raise RunFolderError(f"rubrics build {' '.join(arguments)} ended with {code}")
    return code


def _report(plan: LabPlan) -> int:
    began = time.monotonic()
    runs = [read_run(plan, run) for run in plan.runs]
    curves, found = condition_curves(runs), differences(runs)
    folder = OutputFolder(plan.out)
    folder.write("curves.csv", curves_csv(curves))
    folder.write("runs.csv", runs_csv(runs))
    folder.write("differences.csv", differences_csv(found))
    # Here because it takes long to import.
    from rubric_rl.plots.lab import draw_by_kl, draw_curves
    from rubric_rl.plots.style import as_png, as_svg

    for name, figure in (("curves", draw_curves(curves)), ("by_kl", draw_by_kl(curves))):
        folder.write(f"{name}.png", as_png(figure))
        folder.write(f"{name}.svg", as_svg(figure))
    _note_time(plan, "report", time.monotonic() - began)
    folder.write("report.md", report(plan, curves, found, _facts(plan)))
    sys.stdout.write(f"{conclusion(curves, found)}\n\n{folder.account()}")
    return 0


def _facts(plan: LabPlan) -> Facts:
    topics = {question.prompt_id: question.topic for question in questions()}
    pools = [read_pool(plan.out / f"seed{seed}" / "pool.jsonl") for seed in plan.seeds]
    answers = [answer for own in pools for some in own.by_prompt.values() for answer in some]
    scores = [gold_score(topics[answer.prompt_id], answer.text) for answer in answers]
    criteria: dict[str, list[int]] = {}
    for run in plan.runs:
        rubrics = RubricSet.read(plan.prompts(run).parent / "store" / "rubrics.jsonl").rubrics
        criteria.setdefault(run.condition, []).extend(len(r.criteria) for r in rubrics)
    return Facts(
        num_criteria={name: sum(sizes) / len(sizes) for name, sizes in criteria.items()},
        source_gold=mean_gold(answers, scores),
        seconds=_times(plan),
    )


# ----------------------------------------------------------------------------
# Time


@contextlib.contextmanager
def _timed(plan: LabPlan, stage: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        _note_time(plan, stage, time.monotonic() - began)


def _note_time(plan: LabPlan, stage: str, seconds: float) -> None:
    times = _times(plan)
    times[stage] = round(times.setdefault(stage, 0.0) + seconds, 1)
    write_text_atomic(plan.out / "times.json", json.dumps(times) + "\n")


def _times(plan: LabPlan) -> dict[str, float]:
    path = plan.out / "times.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
