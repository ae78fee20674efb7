"""`rubric-rl eval healthbench` and `prbench`: a benchmark's own score of a policy's answers.

    rubric-rl eval healthbench policy.jsonl --rubrics healthbench.jsonl --out hb.json \\
        judge=openai judge.llm.model=gpt-4.1 judge.llm.mode=each
    rubric-rl eval prbench RUN/model --rubrics prbench.parquet --out pr.json judge=openai ...
    rubric-rl eval healthbench graded.jsonl --rubrics healthbench.jsonl --out hb.json
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from rubric_rl.commands.dry_run import tell, tell_outputs
from rubric_rl.commands.eval_inputs import (
    add_judging_arguments,
    add_policy_arguments,
    beside,
    check_writable,
    policy_answers,
    rubric_answers,
    tell_stopped,
    write_figures,
)
from rubric_rl.commands.eval_text import estimate_cells, wrapped_causes
from rubric_rl.commands.grading_run import GradingJob, grading_job, run_grading, tell_grading
from rubric_rl.commands.judge_inputs import judge_config, positive, prompts_with_rubrics
from rubric_rl.commands.local_rollouts import CreateEngine
from rubric_rl.config.schema import Config
from rubric_rl.data.formats.catalog import PARQUET
from rubric_rl.data.formats.healthbench import example_tags
from rubric_rl.data.reading import read_jsonl, read_parquet
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.evaluation.benchmark import Coverage, GradedAnswer, Grader, graded_answers
from rubric_rl.evaluation.healthbench import ClippedMean, HealthBenchScore, healthbench_score
from rubric_rl.evaluation.labels import Labels, parse_labels
from rubric_rl.evaluation.prbench import Means, PrbenchScore, prbench_score
from rubric_rl.judging.endpoint import check_judge
from rubric_rl.judging.graded_rows import FORMAT as GRADED_FORMAT
from rubric_rl.judging.graded_rows import GradedRow, read_graded
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.rollout.create_engine import create_engine

_EXIT_INTERRUPTED = 130
_EPILOG = """\
IN may also be a graded file, as `rubric-rl judge` and this command write it: then nothing is
asked, and its verdicts are scored. Otherwise the answers are graded by the judge of the
overrides into OUT.graded.jsonl, and the same command goes on where it stopped. The official
grader asks for each criterion in a call of its own: judge.llm.mode=each.
"""


def main(name: str, argv: Sequence[str], create: CreateEngine = create_engine) -> int:
    """Run `healthbench` or `prbench` and return the exit code. Raises RubricRLError."""
    args = _parser(name).parse_intermixed_args(argv)
    if not args.dry_run:
        check_writable(args.out)
    labels = parse_labels(args.label)
    config = judge_config(args.overrides, what="an evaluation")
    if config.judge.grades_whole_answers:
        raise ConfigError(
            f"{name} is scored by its rubrics, and this judge grades answers as a whole: choose "
            "judge.llm.mode=each, and no judge.reward_model"
        )
    prompts = prompts_with_rubrics(args.rubrics, args.format)
    if args.dry_run:
        return _dry_run(args, config, prompts, create)
    try:
        rows = _graded_rows(args, config, prompts, create)
    except KeyboardInterrupt:
        tell_stopped([beside(args.out, "answers"), beside(args.out, "graded")])
        return _EXIT_INTERRUPTED
    answers = graded_answers(rows, prompts)
    if name == "healthbench":
        _healthbench(args, config, prompts, answers, labels)
    else:
        _prbench(args, config, prompts, answers, labels)
    return 0


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"rubric-rl eval {name}",
        description="The benchmark's own score of a policy's answers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policy_arguments(parser)
    add_judging_arguments(parser)
    parser.add_argument("--rubrics", required=True, help="the benchmark's file")
    parser.add_argument("--format", default=name, help=f"its layout (default: {name})")
    parser.add_argument("--limit", type=positive, help="only the first so many answered prompts")
    return parser


# ----------------------------------------------------------------------------
# Grading


def _graded_rows(
    args: argparse.Namespace,
    config: Config,
    prompts: Mapping[str, LoadedPrompt],
    create: CreateEngine,
) -> list[GradedRow]:
    if _is_graded(args.input):
        _refuse_judge(args, config)
        return read_graded(args.input)
    llm = config.judge.llm
    check_rubrics((p.rubric for p in prompts.values()), has_llm=llm is not None)
    if args.input.is_dir() and llm is not None:
        # A model takes its time to answer: not before the judge is known to be there.
        asyncio.run(check_judge(llm))
    return asyncio.run(run_grading(_grading(args, config, prompts, create), sys.stderr))


def _refuse_judge(args: argparse.Namespace, config: Config) -> None:
    if config.judge.llm is not None:
        raise ConfigError(
            f"{args.input} is graded already, and no judge is asked: leave the overrides of "
            "judge out, or give the answers"
        )


def _grading(
    args: argparse.Namespace,
    config: Config,
    prompts: Mapping[str, LoadedPrompt],
    create: CreateEngine,
) -> GradingJob:
    pool = policy_answers(args, args.rubrics, create)
    answered = [c for own in list(pool.by_prompt.values())[: args.limit] for c in own]
    return grading_job(
        rubric_answers(answered, prompts),
        config,
        out=beside(args.out, "graded"),
        retry_unknown=args.retry_unknown,
    )


def _dry_run(
    args: argparse.Namespace,
    config: Config,
    prompts: Mapping[str, LoadedPrompt],
    create: CreateEngine,
) -> int:
    tell_outputs(args.out)
    if _is_graded(args.input):
        _refuse_judge(args, config)
        tell(f"{len(read_graded(args.input))} graded answers would be scored; nothing is asked")
        return 0
    check_rubrics((p.rubric for p in prompts.values()), has_llm=config.judge.llm is not None)
    if args.input.is_dir():
        tell(f"{args.input} would answer {len(prompts)} prompts, which then are graded")
        return 0
    tell_grading(_grading(args, config, prompts, create))
    return 0


def _is_graded(path: Path) -> bool:
    """By its first line; what can't be read is left to those who will say why."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"format": "{GRADED_FORMAT}"'.encode() in file.readline()


# ----------------------------------------------------------------------------
# Scoring


def _healthbench(
    args: argparse.Namespace,
    config: Config,
    prompts: Mapping[str, LoadedPrompt],
    answers: Sequence[GradedAnswer],
    labels: Labels,
) -> None:
    path = Path(args.rubrics).expanduser()
    raw = read_parquet(path) if path.suffix.lower() == PARQUET else read_jsonl(path)
    result = healthbench_score(
        answers,
        example_tags(raw),
        num_prompts_in_file=len(prompts),
        min_coverage=config.rubrics.min_coverage,
        seed=args.seed,
    )
    write_figures(args.out, replace(result, labels=labels))
    _print_healthbench(result)
    _check_scored(result.coverage)


def _prbench(
    args: argparse.Namespace,
    config: Config,
    prompts: Mapping[str, LoadedPrompt],
    answers: Sequence[GradedAnswer],
    labels: Labels,
) -> None:
    result = prbench_score(
        answers, prompts, min_coverage=config.rubrics.min_coverage, seed=args.seed
    )
    write_figures(args.out, replace(result, labels=labels))
    _print_prbench(result)
    _check_scored(result.coverage)


def _check_scored(coverage: Coverage) -> None:
    if not coverage.num_scored:
        causes = wrapped_causes(coverage.unknown_causes)
        raise DataError(f"none of {coverage.num_answers} answers is scored{causes}")


# ----------------------------------------------------------------------------
# Output


def _print_healthbench(result: HealthBenchScore) -> None:
    table = Table(_folded("HealthBench"), "score", "bootstrap std", "answers")
    if result.overall is not None:
        table.add_row("overall", *_clipped_cells(result.overall))
    for by_tag in (result.by_example_tag, result.by_criterion_tag):
        for tag, mean in by_tag.items():
            table.add_row(tag, *_clipped_cells(mean))
    value, interval, _ = estimate_cells(result.mean)
    mean = f"mean before clipping {value}, 95 % interval over prompts {interval}; "
    mean += f"{result.num_below_0} answers below 0"
    _print(table, [mean], result.coverage, result.grader)


def _folded(name: str) -> Column:
    """Names of tags are long, and must not be cut to where they are alike."""
    return Column(name, overflow="fold")


def _clipped_cells(mean: ClippedMean) -> tuple[str, str, str]:
    return f"{mean.score:.4f}", f"{mean.bootstrap_std:.4f}", str(mean.num)


def _print_prbench(result: PrbenchScore) -> None:
    table = Table(_folded("PRBench"), "mean", "value", "95 % interval", "answers")
    named = {"overall": result.overall, **result.by_field, **result.by_category}
    for name, means in named.items():
        _add_means(table, name, means)
    words = "mean_clipped divides points by the positive weights; nothing is clipped"
    _print(table, [words], result.coverage, result.grader)


def _add_means(table: Table, name: str, means: Means) -> None:
    table.add_row(name, "mean_normalized", *estimate_cells(means.mean_normalized))
    table.add_row("", "mean_clipped", *estimate_cells(means.mean_clipped))


def _print(table: Table, lines: list[str], coverage: Coverage, grader: Grader) -> None:
    lines = [
        *lines,
        f"coverage: {coverage.num_scored} of {coverage.num_answers} answers scored, "
        f"{coverage.num_complete} with every verdict, judged weight "
        f"{coverage.judged_weight:.1%}; {coverage.num_prompts} of the "
        f"{coverage.num_prompts_in_file} prompts in the file have an answer"
        + wrapped_causes(coverage.unknown_causes),
    ]
    if not grader.official:
        lines.append("not the official grader, so not comparable with published scores:")
        lines += [f"  {difference}" for difference in grader.differences]
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    console.print("\n".join(lines), soft_wrap=True, markup=False)
