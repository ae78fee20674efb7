"""`rubric-rl judge`: grade answers with rubrics and a judge; compare judges.

    rubric-rl judge answers.jsonl --rubrics prompts.jsonl --out graded.jsonl \\
        judge=openai judge.llm.model=gpt-4.1-mini
    rubric-rl judge card graded.jsonl other.jsonl --out card.json

The same command goes on where it stopped: answers that are in the output with the
same prompt, response, rubric and judge are not graded again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rubric_rl.commands.grading_run import GradingJob, grading_job, run_grading, tell_grading
from rubric_rl.commands.judge_inputs import judge_config, positive, prompts_with_rubrics
from rubric_rl.judging.grading import read_answers

_EXIT_INTERRUPTED = 130

_EPILOG = """\
Overrides are those of rubric-rl train, of the sections judge and rubrics, e.g.

  judge=openai judge.llm.base_url=http://localhost:8000/v1 judge.llm.model=NAME
  judge.llm.mode=each judge.budget.max_cost_usd=5 rubrics.reward=signed_points

Verdicts are kept in the folder OUT.verdicts, or in judge.cache.dir, which several
outputs may share: a verdict that was given once is not paid for again.

`rubric-rl judge card --help` shows how judges are compared.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    if argv and argv[0] == "card":
        from rubric_rl.commands.judge_card import main as card

        return card(argv[1:])
    args = _parser().parse_intermixed_args(argv)
    job = _job(args)
    if args.dry_run:
        tell_grading(job)
        return 0
    try:
        asyncio.run(run_grading(job, sys.stdout))
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped: what is graded is in {job.out}; the same command goes on\n")
        return _EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl judge",
        description="Grade answers with rubrics and a judge.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", type=Path, help="JSONL, one answer a line")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="GROUP=OPTION or SECTION.KEY=VALUE"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSONL to add graded answers to")
    parser.add_argument(
        "--rubrics", help="file with the prompts and their rubrics, where answers name prompts"
    )
    parser.add_argument("--format", default="auto", help="layout of --rubrics (default: auto)")
    parser.add_argument("--limit", type=positive, help="grade only the first so many answers")
    parser.add_argument(
        "--retry-unknown",
        action="store_true",
        help="grade answers again that have an UNKNOWN verdict",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the inputs and estimate; ask nothing"
    )
    return parser


# ----------------------------------------------------------------------------
# Inputs


def _job(args: argparse.Namespace) -> GradingJob:
    config = judge_config(args.overrides, what="grading")
    prompts = {} if args.rubrics is None else prompts_with_rubrics(args.rubrics, args.format)
    answers = read_answers(args.input, prompts)[: args.limit]
    return grading_job(answers, config, out=args.out, retry_unknown=args.retry_unknown)
