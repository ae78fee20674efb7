"""`rubric-rl eval best-of-n`: the best of n answers to each prompt by any reward.

    rubric-rl eval best-of-n pool.jsonl --rubrics prompts.jsonl --n 8 --out best.jsonl
    rubric-rl eval best-of-n pool.jsonl --rubrics prompts.jsonl --graded graded.jsonl --n 8 \\
        --gold better.jsonl --out best.jsonl

The output is a pool like any other, for `rubric-rl eval winrate`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rubric_rl.commands.best_of_n_text import FORMAT, BestOfNFile, figures_by_n, print_best_of_n
from rubric_rl.commands.eval_inputs import (
    add_judging_arguments,
    beside,
    check_writable,
    of_source,
    rubric_answers,
    tell_stopped,
    write_figures,
)
from rubric_rl.commands.grading_run import GradingJob, grading_job, run_grading
from rubric_rl.commands.judge_inputs import judge_config, positive, prompts_with_rubrics
from rubric_rl.commands.theory_inputs import (
    AnswerKey,
    PoolAnswers,
    Valued,
    by_answer,
    graded_values,
    is_graded,
    pool_answers,
)
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.evaluation.best_of_n import Rewarded, best_of
from rubric_rl.evaluation.thinking import answered
from rubric_rl.judging.graded_rows import read_graded
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.refinement.candidates import CandidatePool, candidate_line
from rubric_rl.refinement.records import Candidate

_EXIT_INTERRUPTED = 130
_EPILOG = """\
The reward is that of the overrides: rules or a judge with the rubrics, judge=likert (one grade
of the whole answer), or judge=reward_model judge.reward_model.path=DIR. With --graded it is
taken from a file that `rubric-rl judge` or an evaluation wrote.

What the answers are really worth, where it is known, is the pool's `preference`, or --gold: a
file graded by a better judge, or a pool with preferences. With it the expected gold value
and win rate of best of n are given for each n, over all draws without replacement.

OUT is a pool with one answer a prompt. OUT.figures.json has the figures; what was judged
is in OUT.graded.jsonl, and the same command goes on.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    check_writable(args.out)
    job = _job(args)
    try:
        rewards, judge_id, cost_usd = asyncio.run(_rewards(job))
    except KeyboardInterrupt:
        tell_stopped([beside(args.out, "graded")])
        return _EXIT_INTERRUPTED
    answers = {
        prompt_id: [_rewarded(job, candidate, rewards) for candidate in own]
        for prompt_id, own in job.pool.by_prompt.items()
    }
    picks = _picks(job, answers)
    _write_pool(job, picks)
    result = _figures(job, answers, picks, judge_id, cost_usd)
    write_figures(_figures_path(args.out), result)
    print_best_of_n(result)
    sys.stdout.write(f"{args.out}\n{_figures_path(args.out)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl eval best-of-n",
        description="Take the best of n answers to each prompt by a reward.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="POOL", type=Path, help="JSONL pool of answers")
    add_judging_arguments(parser)
    parser.add_argument("--rubrics", required=True, help="file with the prompts and their rubrics")
    parser.add_argument("--format", default="auto", help="layout of --rubrics (default: auto)")
    parser.add_argument("--graded", type=Path, help="take rewards from this graded file")
    parser.add_argument("--gold", type=Path, help="file with what the answers are really worth")
    parser.add_argument("--n", type=positive, required=True, help="answers to take the best of")
    parser.add_argument("--source", help="whose answers of POOL are meant (default: all)")
    parser.add_argument("--name", help="source of the answers in OUT (default: best-of-N)")
    return parser


def _figures_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.figures.json")


# ----------------------------------------------------------------------------
# Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be chosen from, checked."""

    pool: PoolAnswers
    prompts: Mapping[str, LoadedPrompt]
    n: int
    name: str
    seed: int
    out: Path
    gold: Mapping[AnswerKey, float]
    gold_name: str | None
    rewards: GradingJob | Path
    """What grades the answers, or where their grades are."""


def _job(args: argparse.Namespace) -> _Job:
    prompts = prompts_with_rubrics(args.rubrics, args.format)
    pool = pool_answers(args.input, prompts)
    if args.source is not None:
        whole = CandidatePool(by_prompt=pool.by_prompt, left_out={})
        pool = dataclasses.replace(
            pool, by_prompt=of_source(whole, args.source, "--source").by_prompt
        )
    most = max(len(own) for own in pool.by_prompt.values())
    if args.n > most:
        raise ConfigError(f"--n {args.n}: no prompt of {args.input} has more than {most} answers")
    gold, gold_name = _gold(args, pool, prompts)
    return _Job(
        pool=pool,
        prompts=prompts,
        n=args.n,
        name=args.name or f"best-of-{args.n}",
        seed=args.seed,
        out=args.out,
        gold=gold,
        gold_name=gold_name,
        rewards=_grading(args, pool, prompts) if args.graded is None else _graded(args),
    )


def _graded(args: argparse.Namespace) -> Path:
    if args.overrides:
        raise ConfigError(
            f"--graded {args.graded} has the rewards already, and overrides such as "
            f"{args.overrides[0]!r} have no effect: leave one of the two out"
        )
    if not is_graded(args.graded):
        raise DataError(f"--graded {args.graded} is no file of graded answers (rubric-rl judge)")
    return args.graded


def _grading(
    args: argparse.Namespace, pool: PoolAnswers, prompts: Mapping[str, LoadedPrompt]
) -> GradingJob:
    return grading_job(
        rubric_answers(pool.candidates, prompts),
        judge_config(args.overrides, what="an evaluation"),
        out=beside(args.out, "graded"),
        retry_unknown=args.retry_unknown,
    )


def _gold(
    args: argparse.Namespace, pool: PoolAnswers, prompts: Mapping[str, LoadedPrompt]
) -> tuple[dict[AnswerKey, float], str | None]:
    """Values by answer, and where they are from; the latter is None if there are none."""
    if args.gold is None:
        values = by_answer(pool.preferences())
        return values, "stored preferences" if values else None
    if is_graded(args.gold):
        values = by_answer(graded_values(args.gold))
    else:
        values = by_answer(pool_answers(args.gold, prompts).preferences())
    if not values:
        raise DataError(f"--gold {args.gold} has a value of no answer")
    return values, args.gold.name


# ----------------------------------------------------------------------------
# Choosing


async def _rewards(job: _Job) -> tuple[dict[AnswerKey, float], str, float]:
    """Rewards of the scored answers, who gave them, and what it cost now and before."""
    if isinstance(job.rewards, Path):
        rows, cost_usd = read_graded(job.rewards), 0.0
    else:
        rows = await run_grading(job.rewards, sys.stderr)
        cost_usd = sum(row.usage.cost_usd for row in rows)
    valued = [Valued(key=(row.prompt_id, row.answer_hash), value=row.reward) for row in rows]
    return by_answer(valued), "+".join(sorted({row.judge_id for row in rows})), cost_usd


def _rewarded(job: _Job, candidate: Candidate, rewards: Mapping[AnswerKey, float]) -> Rewarded:
    """By the answer as it stands or, as evaluations grade it, without its thinking."""
    keys = [job.pool.key(candidate), job.pool.key(answered(candidate))]
    reward = next((rewards[key] for key in keys if key in rewards), None)
    gold = next((job.gold[key] for key in keys if key in job.gold), None)
    return Rewarded(candidate=candidate, reward=reward, gold=gold)


def _picks(job: _Job, answers: Mapping[str, Sequence[Rewarded]]) -> list[Rewarded]:
    found = [best_of(own, job.n, seed=job.seed) for own in answers.values()]
    picks = [pick for pick in found if pick is not None]
    if not picks:
        unscored = sum(one.reward is None for own in answers.values() for one in own)
        raise DataError(
            f"no prompt has {job.n} scored answers ({unscored} answers have no reward): take a "
            "smaller --n, or grade the answers first"
        )
    return picks


def _write_pool(job: _Job, picks: Sequence[Rewarded]) -> None:
    chosen = [dataclasses.replace(p.candidate, source=job.name, index=0) for p in picks]
    try:
        write_text_atomic(job.out, "".join(f"{candidate_line(one)}\n" for one in chosen))
    except OSError as err:
        raise DataError(f"--out {str(job.out)!r} can't be written: {err}") from err


def _figures(
    job: _Job,
    answers: Mapping[str, Sequence[Rewarded]],
    picks: Sequence[Rewarded],
    judge_id: str,
    cost_usd: float,
) -> BestOfNFile:
    left_out = Counter(job.pool.left_out)
    left_out["unscored answers"] += sum(a.reward is None for own in answers.values() for a in own)
    left_out[f"prompts with fewer than {job.n} scored answers"] += len(answers) - len(picks)
    return BestOfNFile(
        format=FORMAT,
        n=job.n,
        name=job.name,
        seed=job.seed,
        judge_id=judge_id,
        gold=job.gold_name,
        num_prompts=len(picks),
        left_out=dict(+left_out),
        picked_reward=fmean(pick.reward for pick in picks if pick.reward is not None),
        by_n=figures_by_n(list(answers.values()), seed=job.seed),
        cost_usd=cost_usd,
    )
