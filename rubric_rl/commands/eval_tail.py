"""`rubric-rl eval tail`: does a rubric order the best answers as a better judge does?

    rubric-rl eval tail pool.jsonl --rubrics prompts.jsonl --top 8 --out tail.json
    rubric-rl eval tail pool.jsonl --rubrics prompts.jsonl --high strong --low weak --pairs 1 \\
        --truth model=gpt-4.1,base_url=https://api.openai.com/v1,api_key_env=OPENAI_API_KEY \\
        --out tail.json judge=openai judge.llm.model=gpt-4.1-mini
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.commands.annotation_run import AnnotationJob, run_annotations
from rubric_rl.commands.dry_run import tell, tell_comparisons, tell_outputs
from rubric_rl.commands.endpoint_rollouts import parse_endpoint
from rubric_rl.commands.eval_inputs import (
    add_judging_arguments,
    beside,
    check_writable,
    rubric_answers,
    tell_stopped,
    write_figures,
)
from rubric_rl.commands.eval_tail_text import FORMAT, TailFile, print_tail
from rubric_rl.commands.grading_run import GradingJob, grading_job, run_grading, tell_grading
from rubric_rl.commands.judge_inputs import judge_config, positive, prompts_with_rubrics
from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.schema import Config
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError, DataError, JudgeFailureError
from rubric_rl.evaluation.annotations import ANNOTATIONS
from rubric_rl.evaluation.labels import Labels, parse_labels
from rubric_rl.evaluation.outcomes import (
    JudgedPair,
    comparisons_of,
    judged_by_calls,
    judged_by_preferences,
    judged_by_scores,
    score_key,
)
from rubric_rl.evaluation.tail_accuracy import Ordered, TailAccuracy, tail_accuracy, voted
from rubric_rl.evaluation.tail_pairs import (
    Drawing,
    Region,
    TailPair,
    pairs_by_rank,
    pairs_by_source,
)
from rubric_rl.judging.endpoint import check_judge
from rubric_rl.judging.model_table import prices_of
from rubric_rl.judging.row_file import spent_usd
from rubric_rl.refinement.candidates import read_pool
from rubric_rl.types import Rubric

PREFERENCE = "preference"

_EXIT_INTERRUPTED = 130
_TRUTH_KEYS = ("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens")
_EPILOG = """\
Regions: --high and --low name models, as in the paper, whose high-reward pairs are of a good
model and low-reward pairs of a weak one; or --top takes the answers of each prompt with the
highest and the lowest stored preferences.

Truth: the preferences stored in the pool, or a chat model that is asked once about each pair
in random order. The rubric's side is the majority of --gradings gradings by the judge of the
overrides. Everything that was asked for is in OUT.graded.jsonl and OUT.annotations.jsonl,
and the same command goes on. judge.budget.max_cost_usd holds for both together.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    if not args.dry_run:
        check_writable(args.out)
    job = _job(args)
    if args.dry_run:
        return _dry_run(args, job)
    try:
        result = asyncio.run(_measure(job))
    except KeyboardInterrupt:
        tell_stopped([job.grading.out, beside(args.out, "annotations")])
        return _EXIT_INTERRUPTED
    write_figures(args.out, result)
    print_tail(result)
    _check_coverage(result.regions, job.max_unknown_frac)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl eval tail",
        description="Does a rubric order the best answers as a better judge does?",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="POOL", type=Path, help="JSONL pool of answers")
    add_judging_arguments(parser)
    parser.add_argument("--rubrics", required=True, help="file with the prompts and their rubrics")
    parser.add_argument("--format", default="auto", help="layout of --rubrics (default: auto)")
    parser.add_argument("--high", default="", help="models of the high region, with commas")
    parser.add_argument("--low", default="", help="models of the low region, with commas")
    parser.add_argument("--top", type=positive, help="or: answers of each region, by preference")
    parser.add_argument(
        "--pairs", type=positive, help="pairs of each prompt and region (default: all)"
    )
    parser.add_argument(
        "--truth",
        default=PREFERENCE,
        metavar="preference|KEY=VALUE,...",
        help="stored preferences (the default); or a chat model: model, base_url, api_key_env, "
        + ", ".join(_TRUTH_KEYS),
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.1,
        help="stored preferences no further apart than this say nothing (0.1)",
    )
    parser.add_argument(
        "--gradings", type=positive, default=5, help="gradings that vote (5, as in the paper)"
    )
    return parser


# ----------------------------------------------------------------------------
# Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be measured, checked."""

    pairs: tuple[TailPair, ...]
    prompts: dict[str, LoadedPrompt]
    grading: GradingJob
    num_gradings: int
    truth: JudgeConfig | None
    """None: stored preferences."""
    truth_out: Path
    margin: float
    regions: dict[str, str]
    max_unknown_frac: float
    seed: int
    retry_unknown: bool
    labels: Labels


def _job(args: argparse.Namespace) -> _Job:
    labels = parse_labels(args.label)
    config = judge_config(args.overrides, what="an evaluation")
    prompts = prompts_with_rubrics(args.rubrics, args.format)
    pairs = _pairs(args)
    truth = _truth(args.truth, config)
    num_gradings = args.gradings
    by_rules = all(c.rule is not None for p in pairs for c in _rubric(prompts, p).criteria)
    whole = config.judge.grades_whole_answers
    if config.judge.reward_model is not None or (by_rules and not whole):
        # Rules give the same verdicts every time, and so does a reward model.
        num_gradings = 1
    _warn_of_equal_votes(config, num_gradings)
    return _Job(
        pairs=tuple(pairs),
        prompts=prompts,
        grading=_grading(args, config, pairs, prompts, num_gradings),
        num_gradings=num_gradings,
        truth=truth,
        truth_out=beside(args.out, "annotations"),
        margin=args.margin,
        regions=_regions_in_words(args),
        max_unknown_frac=config.rubrics.max_unscored_frac,
        seed=args.seed,
        retry_unknown=args.retry_unknown,
        labels=labels,
    )


def _rubric(prompts: Mapping[str, LoadedPrompt], pair: TailPair) -> Rubric:
    prompt_id = pair.pair.prompt_id
    if prompt_id not in prompts:
        raise DataError(f"--rubrics has no rubric of the prompt {prompt_id!r} of the pool")
    return prompts[prompt_id].rubric


def _pairs(args: argparse.Namespace) -> list[TailPair]:
    drawing = Drawing(most=args.pairs, seed=args.seed)
    named: dict[Region, Sequence[str]] = {}
    if args.high:
        named["high"] = args.high.split(",")
    if args.low:
        named["low"] = args.low.split(",")
    if bool(named) == bool(args.top):
        raise ConfigError("give the regions either by --high and --low or by --top")
    pool = read_pool(args.input)
    if args.top:
        return pairs_by_rank(pool, args.top, drawing)
    return pairs_by_source(pool, named, drawing)


def _regions_in_words(args: argparse.Namespace) -> dict[str, str]:
    if args.top:
        return {
            "high": f"the {args.top} answers of highest stored preference",
            "low": f"the {args.top} answers of lowest stored preference",
        }
    named = {"high": args.high, "low": args.low}
    return {region: f"answers of {names}" for region, names in named.items() if names}


def _truth(text: str, config: Config) -> JudgeConfig | None:
    if text == PREFERENCE:
        return None
    llm = parse_endpoint(
        text, temperature=0.0, max_tokens=2048, option="--truth", more_keys=_TRUTH_KEYS
    )
    if config.judge.budget.max_cost_usd is not None and prices_of(llm) is None:
        raise ConfigError(
            f"--truth {text!r}: judge.budget.max_cost_usd is set, and the model's price is not "
            f"known: add {' and '.join(f'{key}=...' for key in _TRUTH_KEYS)}"
        )
    return config.judge.model_copy(update={"llm": llm})


def _grading(
    args: argparse.Namespace,
    config: Config,
    pairs: Sequence[TailPair],
    prompts: Mapping[str, LoadedPrompt],
    num_gradings: int,
) -> GradingJob:
    candidates = [c for p in pairs for c in (p.pair.policy, p.pair.opponent)]
    answers = [
        answer
        for number in range(num_gradings)
        for answer in rubric_answers(candidates, prompts, suffix=_suffix(number))
    ]
    if num_gradings > 1:
        # A remembered verdict is no second opinion.
        cache = config.judge.cache.model_copy(update={"enabled": False})
        judge = config.judge.model_copy(update={"cache": cache})
        config = config.model_copy(update={"judge": judge})
    spent = spent_usd(beside(args.out, "annotations"), ANNOTATIONS)
    return grading_job(
        answers,
        config,
        out=beside(args.out, "graded"),
        retry_unknown=args.retry_unknown,
        spent_elsewhere_usd=spent,
    )


def _warn_of_equal_votes(config: Config, num_gradings: int) -> None:
    """At temperature 0 a judge says nearly the same each time, and each time costs."""
    llm = config.judge.llm
    if num_gradings > 1 and llm is not None and llm.temperature == 0:
        sys.stderr.write(
            f"warning: {num_gradings} gradings at judge.llm.temperature=0 are nearly one: set a "
            "higher temperature for votes that differ, or --gradings 1 to pay for one\n"
        )


def _suffix(number: int) -> str:
    return f"@{number}"


# ----------------------------------------------------------------------------
# Measuring


def _dry_run(args: argparse.Namespace, job: _Job) -> int:
    tell_outputs(args.out)
    tell(f"{len(job.pairs)} pairs, {job.num_gradings} gradings of each answer")
    tell_grading(job.grading)
    if job.truth is not None:
        tell_comparisons(len(job.pairs), job.truth_out)
    return 0


async def _measure(job: _Job) -> TailFile:
    if job.truth is not None:
        # Not after the grading is paid for.
        assert job.truth.llm is not None
        await check_judge(job.truth.llm)
    rows = await run_grading(job.grading, sys.stderr)
    scores = {row.row_id: row.reward for row in rows}
    graded_usd = sum(row.usage.cost_usd for row in rows)
    truths, truth_name, truth_usd = await _truths(job, graded_usd)
    regions: dict[Region, list[Ordered]] = {}
    for tail, truth in zip(job.pairs, truths, strict=True):
        ordered = _ordered(tail, truth, scores, job.num_gradings)
        regions.setdefault(tail.region, []).append(ordered)
    return TailFile(
        format=FORMAT,
        regions_by=job.regions,
        truth=truth_name,
        margin=job.margin if job.truth is None else None,
        judge_id="+".join(sorted({row.judge_id for row in rows})),
        num_gradings=job.num_gradings,
        seed=job.seed,
        regions=tuple(tail_accuracy(r, own, seed=job.seed) for r, own in regions.items()),
        cost_usd=graded_usd + truth_usd,
        labels=job.labels,
    )


def _ordered(
    tail: TailPair, truth: JudgedPair, scores: Mapping[str, float | None], num_gradings: int
) -> Ordered:
    pair = tail.pair
    keys = [score_key(pair.prompt_id, c.candidate_id) for c in (pair.policy, pair.opponent)]
    gradings = [
        judged_by_scores(pair, {key: scores[f"{key}{_suffix(number)}"] for key in keys})
        for number in range(num_gradings)
    ]
    rubric, is_split = voted(pair, gradings)
    return Ordered(truth=truth, rubric=rubric, is_split=is_split)


async def _truths(job: _Job, graded_usd: float) -> tuple[list[JudgedPair], str, float]:
    """What is true of each pair, who says so, and what it cost."""
    if job.truth is None:
        stored = [judged_by_preferences(tail.pair, margin=job.margin) for tail in job.pairs]
        return stored, "stored preferences", 0.0
    asked = [
        comparisons_of(tail.pair, job.prompts[tail.pair.prompt_id].record, "flip", job.seed)
        for tail in job.pairs
    ]
    annotated = await run_annotations(
        AnnotationJob(
            comparisons=tuple(comparison for own in asked for comparison in own),
            judge=job.truth,
            allows_tie=False,
            max_unknown_frac=job.max_unknown_frac,
            out=job.truth_out,
            retry_unknown=job.retry_unknown,
            spent_elsewhere_usd=graded_usd,
        )
    )
    given = iter(annotated.annotations)
    judged = [
        judged_by_calls(tail.pair, own, [next(given) for _ in own])
        for tail, own in zip(job.pairs, asked, strict=True)
    ]
    return judged, annotated.how.judge_id, annotated.usage.cost_usd


def _check_coverage(regions: Sequence[TailAccuracy], max_unknown_frac: float) -> None:
    for region in regions:
        unknown = region.truth_unknown + region.rubric_unknown
        if unknown > max_unknown_frac * region.num_pairs:
            raise JudgeFailureError(
                f"{unknown} of {region.num_pairs} pairs of the region {region.region!r} are "
                f"unknown, more than rubrics.max_unscored_frac={max_unknown_frac:g}: try them "
                "again with --retry-unknown"
            )
        if not region.used:
            raise DataError(
                f"no pair of the region {region.region!r} can be used: of {region.num_pairs} the "
                f"truth ties {region.truth_tied}; lower --margin, or take other answers"
            )
