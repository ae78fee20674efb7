"""`rubric-rl eval winrate`: how often a policy's answers are preferred to an opponent's.

    rubric-rl eval winrate policy.jsonl --against reference.jsonl --prompts prompts.jsonl \\
        --out win.json judge=openai judge.llm.model=gpt-4.1
    rubric-rl eval winrate RUN/model --against reference.jsonl --prompts prompts.jsonl \\
        --by rubric --out win.json
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rubric_rl.commands.annotation_run import AnnotationJob, run_annotations
from rubric_rl.commands.dry_run import tell, tell_comparisons, tell_outputs
from rubric_rl.commands.eval_inputs import (
    add_judging_arguments,
    add_policy_arguments,
    beside,
    check_writable,
    of_source,
    policy_answers,
    rubric_answers,
    tell_stopped,
    write_figures,
)
from rubric_rl.commands.eval_winrate_text import FORMAT, WinRateFile, print_win_rate
from rubric_rl.commands.grading_run import GradingJob, grading_job, run_grading, tell_grading
from rubric_rl.commands.judge_inputs import judge_config, positive, prompts_with_rubrics
from rubric_rl.commands.local_rollouts import CreateEngine
from rubric_rl.config.schema import Config
from rubric_rl.data.bare_prompts import load_records
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError, DataError, JudgeFailureError
from rubric_rl.evaluation.labels import parse_labels
from rubric_rl.evaluation.outcomes import (
    JudgedPair,
    Orders,
    comparisons_of,
    judged_by_calls,
    judged_by_preferences,
    judged_by_scores,
)
from rubric_rl.evaluation.pairing import Pairing, pair_answers
from rubric_rl.evaluation.pairwise_judge import Comparison
from rubric_rl.evaluation.winrate import WinRate, win_rate
from rubric_rl.judging.endpoint import check_judge, check_price
from rubric_rl.refinement.candidates import read_pool
from rubric_rl.rollout.create_engine import create_engine
from rubric_rl.types import JudgeUsage, Rubric

_EXIT_INTERRUPTED = 130
_EPILOG = """\
Who decides which answer is better, --by:

  llm         a chat model, given by overrides: judge=openai judge.llm.model=NAME ...
  rubric      the score under the prompt's rubric in --prompts; no model for rule criteria
  preference  the preferences stored with the answers, against a common third answer

The judge's choices are kept in OUT.annotations.jsonl, or in --annotations, which several
evaluations may share, and a rubric's verdicts in OUT.graded.jsonl: the same command goes on
where it stopped. A pair whose judge failed is unknown, and in no rate.
"""


def main(argv: Sequence[str], create: CreateEngine = create_engine) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    if not args.dry_run:
        check_writable(args.out)
    config = judge_config(args.overrides, what="an evaluation")
    _check(args, config)
    if args.dry_run:
        return _dry_run(args, config, create)
    try:
        result = _evaluate(args, config, create)
    except KeyboardInterrupt:
        tell_stopped([beside(args.out, what) for what in ("answers", "annotations", "graded")])
        return _EXIT_INTERRUPTED
    write_figures(args.out, result)
    print_win_rate(result)
    _check_coverage(result.figures, config.rubrics.max_unscored_frac)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl eval winrate",
        description="How often a policy's answers are preferred to an opponent's.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policy_arguments(parser)
    add_judging_arguments(parser)
    parser.add_argument("--against", type=Path, required=True, help="the opponent's pool")
    parser.add_argument("--against-source", help="whose answers of it, where it has several")
    parser.add_argument("--prompts", help="file with the prompts; with rubrics for --by rubric")
    parser.add_argument("--format", default="auto", help="layout of --prompts (default: auto)")
    parser.add_argument("--by", choices=("llm", "rubric", "preference"), default="llm")
    parser.add_argument(
        "--orders",
        choices=("flip", "both"),
        default="flip",
        help="one call with the order drawn for each pair, as in the paper (the default); or a "
        "call in each order, where a disagreement is a tie",
    )
    parser.add_argument("--ties", action="store_true", help="let the judge say that they tie")
    parser.add_argument(
        "--margin", type=float, default=0.0, help="scores no further apart than this tie (0)"
    )
    parser.add_argument(
        "--control",
        choices=("none", "length", "style"),
        default="length",
        help="also give the rate at equal length, or length and Markdown (default: length)",
    )
    parser.add_argument("--annotations", type=Path, help="file for the judge's choices")
    parser.add_argument("--limit", type=positive, help="only the first so many prompts")
    return parser


def _check(args: argparse.Namespace, config: Config) -> None:
    if args.by == "llm":
        if config.judge.llm is None:
            raise ConfigError(
                "no LLM judge is configured: set judge=openai with judge.llm.base_url and "
                "judge.llm.model, or --by rubric or --by preference, which need none"
            )
        check_price(config.judge.llm, config.judge.budget)
    elif args.ties or args.orders == "both" or args.annotations:
        raise ConfigError(
            f"--ties, --orders and --annotations are about an LLM judge, not --by {args.by}: "
            "leave them out"
        )
    if args.by != "preference" and args.prompts is None:
        raise ConfigError(f"--by {args.by} needs the prompts: give their file with --prompts")
    if args.margin < 0 or (args.margin and args.by == "llm"):
        raise ConfigError(
            f"--margin {args.margin:g}: want 0 or more, with --by rubric or --by preference"
        )


# ----------------------------------------------------------------------------
# Judging


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What the judge came to, whoever it is."""

    pairs: tuple[JudgedPair, ...]
    judge_id: str
    template_hash: str | None = None
    orders: Orders | None = None
    first_choice_share: float | None = None
    usage: JudgeUsage = field(default_factory=JudgeUsage)


def _evaluate(args: argparse.Namespace, config: Config, create: CreateEngine) -> WinRateFile:
    labels = parse_labels(args.label)
    opponent = of_source(read_pool(args.against), args.against_source, "--against-source")
    prompts = _prompts(args)
    if args.by == "llm" and args.input.is_dir():
        # A model takes its time to answer: not before the judge is known to be there.
        assert config.judge.llm is not None
        asyncio.run(check_judge(config.judge.llm))
    policy = policy_answers(args, args.prompts, create)
    pairing = pair_answers(policy, opponent, limit=args.limit)
    judge = {"llm": _by_llm, "rubric": _by_rubric, "preference": _by_preference}[args.by]
    judged = judge(args, config, pairing, prompts)
    return WinRateFile(
        format=FORMAT,
        policy=pairing.policy,
        opponent=pairing.opponent,
        pairs_hash=pairing.content_hash,
        by=args.by,
        judge_id=judged.judge_id,
        template_hash=judged.template_hash,
        orders=judged.orders,
        num_identical=sum(pair.is_identical for pair in pairing.pairs),
        allows_tie=args.ties or args.by != "llm",
        margin=args.margin,
        seed=args.seed,
        first_choice_share=judged.first_choice_share,
        figures=win_rate(judged.pairs, control=args.control, seed=args.seed),
        calls=judged.usage.calls,
        tokens=judged.usage.tokens,
        cost_usd=judged.usage.cost_usd,
        labels=labels,
    )


def _dry_run(args: argparse.Namespace, config: Config, create: CreateEngine) -> int:
    opponent = of_source(read_pool(args.against), args.against_source, "--against-source")
    prompts = _prompts(args)
    tell_outputs(args.out)
    if args.input.is_dir():
        tell(f"{args.input} would answer {len(prompts)} prompts, which then are compared")
        return 0
    policy = policy_answers(args, args.prompts, create)
    pairing = pair_answers(policy, opponent, limit=args.limit)
    sides = f"{pairing.policy.source} and {pairing.opponent.source}"
    tell(f"{len(pairing.pairs)} pairs of {sides}, by {args.by}")
    if args.by == "llm":
        asked = _comparisons(args, pairing, prompts)
        out = args.annotations or beside(args.out, "annotations")
        tell_comparisons(sum(map(len, asked)), out)
    elif args.by == "rubric":
        tell_grading(_grading(args, config, pairing, prompts))
    return 0


def _prompts(args: argparse.Namespace) -> dict[str, LoadedPrompt]:
    """The prompts by id; without rubrics where none is needed."""
    if args.by == "rubric":
        return prompts_with_rubrics(args.prompts, args.format)
    records = () if args.prompts is None else load_records(args.prompts, args.format)
    return {
        record.prompt_id: LoadedPrompt(
            record=record,
            rubric=Rubric(prompt_id=record.prompt_id, version=0, criteria=()),
            split=None,
        )
        for record in records
    }


def _comparisons(
    args: argparse.Namespace, pairing: Pairing, prompts: Mapping[str, LoadedPrompt]
) -> list[list[Comparison]]:
    """What a judge is asked of each pair. Raises DataError."""
    missing = [p.prompt_id for p in pairing.pairs if p.prompt_id not in prompts]
    if missing:
        raise DataError(
            f"{len(missing)} answered prompts are not in --prompts {args.prompts}, the first is "
            f"{missing[0]!r}: give the file that was answered"
        )
    return [
        list(comparisons_of(pair, prompts[pair.prompt_id].record, args.orders, args.seed))
        for pair in pairing.pairs
    ]


def _by_llm(
    args: argparse.Namespace,
    config: Config,
    pairing: Pairing,
    prompts: Mapping[str, LoadedPrompt],
) -> _Judged:
    asked = _comparisons(args, pairing, prompts)
    job = AnnotationJob(
        comparisons=tuple(comparison for own in asked for comparison in own),
        judge=config.judge,
        allows_tie=args.ties,
        max_unknown_frac=config.rubrics.max_unscored_frac,
        out=args.annotations or beside(args.out, "annotations"),
        retry_unknown=args.retry_unknown,
    )
    annotated = asyncio.run(run_annotations(job))
    given = iter(annotated.annotations)
    pairs = [
        judged_by_calls(pair, own, [next(given) for _ in own])
        for pair, own in zip(pairing.pairs, asked, strict=True)
    ]
    chosen = [a.choice for a in annotated.annotations if a.choice in ("first", "second")]
    return _Judged(
        pairs=tuple(pairs),
        judge_id=annotated.how.judge_id,
        template_hash=annotated.how.template_hash,
        orders=args.orders,
        first_choice_share=chosen.count("first") / len(chosen) if chosen else None,
        usage=annotated.usage,
    )


def _grading(
    args: argparse.Namespace,
    config: Config,
    pairing: Pairing,
    prompts: Mapping[str, LoadedPrompt],
) -> GradingJob:
    both = (answer for pair in pairing.pairs for answer in (pair.policy, pair.opponent))
    answers = rubric_answers(both, prompts)
    out = beside(args.out, "graded")
    return grading_job(answers, config, out=out, retry_unknown=args.retry_unknown)


def _by_rubric(
    args: argparse.Namespace,
    config: Config,
    pairing: Pairing,
    prompts: Mapping[str, LoadedPrompt],
) -> _Judged:
    rows = asyncio.run(run_grading(_grading(args, config, pairing, prompts), sys.stderr))
    scores = {row.row_id: row.reward for row in rows}
    return _Judged(
        pairs=tuple(judged_by_scores(p, scores, margin=args.margin) for p in pairing.pairs),
        judge_id="+".join(sorted({row.judge_id for row in rows})),
        usage=sum((row.usage for row in rows), JudgeUsage()),
    )


def _by_preference(
    args: argparse.Namespace,
    config: Config,
    pairing: Pairing,
    prompts: Mapping[str, LoadedPrompt],
) -> _Judged:
    pairs = tuple(judged_by_preferences(pair, margin=args.margin) for pair in pairing.pairs)
    if all(judged.outcome is None for judged in pairs):
        raise DataError(
            "no pair has stored preferences on both sides: give pools with preferences, or "
            "another --by"
        )
    return _Judged(pairs=pairs, judge_id="stored preferences")


def _check_coverage(figures: WinRate, max_unknown_frac: float) -> None:
    if figures.unknown > max_unknown_frac * figures.num_pairs:
        raise JudgeFailureError(
            f"{figures.unknown} of {figures.num_pairs} pairs are unknown, more than "
            f"rubrics.max_unscored_frac={max_unknown_frac:g}: see the causes, and try them again "
            "with --retry-unknown"
        )
