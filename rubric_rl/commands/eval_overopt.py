"""`rubric-rl eval overopt`: when runs over-optimise their rubrics, as Figure 4 of the paper.

    rubric-rl eval overopt runs/initial runs/great_pairs --out overopt
    rubric-rl eval overopt runs/first --gold first:60=win_60.json --gold first:120=win_120.json \\
        --out overopt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rubric_rl.commands.dry_run import tell_outputs
from rubric_rl.commands.eval_overopt_text import Overopt, as_json, curves_csv, print_overopt
from rubric_rl.commands.judge_inputs import positive
from rubric_rl.commands.output_folder import OutputFolder
from rubric_rl.commands.overopt_inputs import GoldOptions, RunCurve, run_curves, step_file
from rubric_rl.errors import ConfigError
from rubric_rl.evaluation.overoptimisation import CONFIDENCE, MIN_BELOW, Decline, analyse, common_kl
from rubric_rl.evaluation.prbench import MEANS

_EPILOG = """\
Gold values are, the first that is given:

  --gold-rubrics FILE    the runs' held-out answers, scored again by the rules of FILE
  --gold RUN:STEP=FILE   win rates, as `rubric-rl eval winrate --out FILE` of a checkpoint
  neither                what the run measured itself (eval/gold_mean, the section gold)

OUT gets overopt.json, curves.csv, overopt.png and overopt.svg. The rule of the onset and the
formula of the area are in rubric_rl/evaluation/overoptimisation.py.
"""

_FILES = ("overopt.json", "curves.csv", "overopt.png", "overopt.svg")


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = build_parser().parse_args(argv)
    found = overopt(args)
    if args.dry_run:
        tell_outputs(*(args.out / name for name in _FILES))
        return 0
    folder = OutputFolder(args.out)
    print_overopt(found)
    folder.write("overopt.json", as_json(found))
    folder.write("curves.csv", curves_csv([run for run, _ in found.runs]))
    # Here because it takes long to import.
    from rubric_rl.plots.overopt import draw_overopt
    from rubric_rl.plots.style import as_png, as_svg

    figure = draw_overopt([(run.curve, decline) for run, decline in found.runs])
    folder.write("overopt.png", as_png(figure))
    folder.write("overopt.svg", as_svg(figure))
    sys.stdout.write(folder.account())
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="rubric-rl eval overopt",
        description="Peak of gold, onset of its decline, and area below the proxy, for each run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--gold",
        action="append",
        default=[],
        metavar="RUN:STEP=FILE",
        help="win rate of the policy of a step; RUN is the name of its folder; repeatable",
    )
    parser.add_argument(
        "--gold-rubrics", metavar="FILE", help="prompt file whose rules score the answers again"
    )
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="RUN:STEP=FILE",
        help="the same with `rubric-rl eval healthbench` or prbench",
    )
    parser.add_argument(
        "--prbench-mean",
        choices=MEANS,
        default=MEANS[0],
        help="which of PRBench's means, over all its questions (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=CONFIDENCE,
        help=f"one-sided, that an evaluation is below the peak (default {CONFIDENCE})",
    )
    parser.add_argument(
        "--evaluations",
        type=positive,
        default=MIN_BELOW,
        help=f"that must be clearly below the peak at the end (default {MIN_BELOW})",
    )
    parser.add_argument("--dry-run", action="store_true", help="read the runs; write nothing")
    return parser


def _options(args: argparse.Namespace) -> GoldOptions:
    if not 0.5 <= args.confidence < 1:
        raise ConfigError(f"--confidence {args.confidence:g}: want at least 0.5 and below 1")
    if args.gold and args.gold_rubrics:
        raise ConfigError("--gold and --gold-rubrics are two gold values: give one of them")
    return GoldOptions(
        files=tuple(map(step_file, args.gold)),
        rubrics=args.gold_rubrics,
        benchmarks=tuple(map(step_file, args.benchmark)),
        prbench_mean=args.prbench_mean,
    )


def overopt(args: argparse.Namespace) -> Overopt:
    """The analysis of the runs that are named. Raises ConfigError, DataError."""
    curves = run_curves(args.runs, _options(args))
    runs: list[tuple[RunCurve, Decline]] = []
    for run in curves:
        decline = analyse(run.curve, confidence=args.confidence, min_below=args.evaluations)
        assert decline is not None, "a run without gold is refused"
        runs.append((run, decline))
    return Overopt(
        runs=tuple(runs),
        common_kl=common_kl(run.curve for run in curves),
        confidence=args.confidence,
        min_below=args.evaluations,
    )
