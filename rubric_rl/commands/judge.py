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
import itertools
import secrets
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.commands.judge_progress import (
    GradingProgress,
    dollars,
    print_closing,
    print_plan,
)
from rubric_rl.config.compose import compose
from rubric_rl.config.judge import JudgeConfig, LlmJudgeConfig
from rubric_rl.config.schema import Config, DataConfig, RubricsConfig
from rubric_rl.data.prompt_set import describe, load_prompt_set
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import BudgetExhaustedError, ConfigError, JudgeFailureError
from rubric_rl.judging.assembly import own_judge
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.endpoint import JudgeIdentity, check_judge, check_price
from rubric_rl.judging.graded_rows import GradedFile, GradedRow, read_graded
from rubric_rl.judging.grading import Answer, content_hash, grade, read_answers
from rubric_rl.judging.grading_plan import plan_grading
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.judging.model_table import prices_of
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.types import FailureCause

_EXIT_INTERRUPTED = 130
# Parts of the configuration that grading looks at; an experiment may set them too.
_ROOTS = ("judge", "rubrics", "experiment", "hydra")
# Enough rows to tell a judge that is down from a few bad answers.
_WINDOW_ROWS = 50

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
        return _dry_run(job)
    try:
        asyncio.run(_run(job))
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
    parser.add_argument("--limit", type=_positive, help="grade only the first so many answers")
    parser.add_argument(
        "--retry-unknown",
        action="store_true",
        help="grade answers again that have an UNKNOWN verdict",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the inputs and estimate; ask nothing"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number above 0")
    return int(text)


# ----------------------------------------------------------------------------
# Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be graded, how and where to, checked."""

    answers: tuple[Answer, ...]
    judge: JudgeConfig
    """Without an LLM where rules decide every criterion."""
    rubrics: RubricsConfig
    templates: JudgeTemplates
    out: Path
    retry_unknown: bool

    @property
    def llm(self) -> LlmJudgeConfig | None:
        return self.judge.llm


def _job(args: argparse.Namespace) -> _Job:
    config = _composed(args.overrides)
    prompts = {} if args.rubrics is None else _prompts(args.rubrics, args.format)
    answers = read_answers(args.input, prompts)[: args.limit]
    judge = config.judge
    check_rubrics((answer.rubric for answer in answers), has_llm=judge.llm is not None)
    if all(c.rule is not None for answer in answers for c in answer.rubric.criteria):
        judge = judge.model_copy(update={"llm": None})
    if judge.llm is not None:
        check_price(judge.llm, judge.budget)
    return _Job(
        answers=tuple(answers),
        judge=judge,
        rubrics=config.rubrics,
        templates=JudgeTemplates.load(None if judge.llm is None else judge.llm.template_dir),
        out=args.out,
        retry_unknown=args.retry_unknown,
    )


def _composed(overrides: Sequence[str]) -> Config:
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if "=" in override and key.split(".")[0] not in _ROOTS:
            raise ConfigError(
                f"override {override!r} has no effect on grading, which takes those of judge and "
                "rubrics: leave it out"
            )
    config = compose(overrides)
    llm = config.judge.llm
    if llm is not None and llm.backend == "vllm":
        raise ConfigError(
            "judge.llm.backend='vllm' starts servers on a cluster, which grading doesn't: start "
            "one with `vllm serve`, and set judge.llm.backend=openai and judge.llm.base_url"
        )
    return config


def _prompts(path: str, layout: str) -> dict[str, LoadedPrompt]:
    """The prompts of the rubrics file by id, training and held-out ones alike."""
    loaded = load_prompt_set(DataConfig.model_validate({"path": path, "format": layout}))
    if loaded.dropped:
        sys.stderr.write(f"{describe(loaded.dropped)}\n")
    return {
        record.prompt_id: LoadedPrompt(
            record=record, rubric=loaded.rubrics.of(record.prompt_id), split=None
        )
        for record in (*loaded.train, *loaded.eval)
    }


def _dry_run(job: _Job) -> int:
    """Without asking who judges, only the ids of graded answers can be compared."""
    done: set[str] = set()
    if job.out.exists() and job.out.stat().st_size:
        done = {row.row_id for row in read_graded(job.out)}
    todo = [answer for answer in job.answers if answer.row_id not in done]
    print_plan(plan_grading(todo, job.llm, job.templates), len(job.answers) - len(todo), sys.stdout)
    return 0


# ----------------------------------------------------------------------------
# The run


async def _run(job: _Job) -> None:
    """Grade what isn't graded yet.

    Raises:
        BudgetExhaustedError, JudgeFailureError: what is graded is in the file.
    """
    with ExitStack() as stack:
        file = GradedFile(job.out)
        stack.callback(file.close)
        identity = None if job.llm is None else await check_judge(job.llm)
        digests = {answer.row_id: _digest(answer, job, identity) for answer in job.answers}
        todo = [
            (answer, digests[answer.row_id])
            for answer in job.answers
            if not _is_done(file.rows.get(answer.row_id), digests[answer.row_id], job)
        ]
        has_price = job.llm is None or prices_of(job.llm) is not None
        progress = GradingProgress(
            sys.stderr,
            total=len(job.answers),
            done=len(job.answers) - len(todo),
            spent_usd=file.usage.cost_usd,
            has_price=has_price,
        )
        stack.callback(progress.close)
        _announce(job, file, len(todo), progress)
        try:
            await _grade(job, identity, todo, file, progress)
        finally:
            progress.close()
            rows = [file.rows[row_id] for row_id in digests if row_id in file.rows]
            print_closing(rows, file.usage.cost_usd, sys.stdout, has_price=has_price)
    _check_unscored(rows, job)


def _digest(answer: Answer, job: _Job, identity: JudgeIdentity | None) -> str:
    return content_hash(answer, job.llm, identity, job.templates.template_hash, job.rubrics)


def _is_done(row: GradedRow | None, digest: str, job: _Job) -> bool:
    if row is None or row.content_hash != digest:
        return False
    return not (job.retry_unknown and row.num_unknown)


def _announce(job: _Job, file: GradedFile, num_todo: int, progress: GradingProgress) -> None:
    if file.num_torn_bytes:
        progress.note(f"{job.out}: removed a last line that was cut off")
    changed = sum(answer.row_id in file.rows for answer in job.answers)
    changed -= len(job.answers) - num_todo
    progress.note(
        f"{num_todo} of {len(job.answers)} answers to grade"
        + (f", {changed} of them anew" if changed else "")
    )


async def _grade(
    job: _Job,
    identity: JudgeIdentity | None,
    todo: Sequence[tuple[Answer, str]],
    file: GradedFile,
    progress: GradingProgress,
) -> None:
    config = _with_what_is_left(job, file.usage.cost_usd) if todo else job.judge
    recent: deque[bool] = deque(maxlen=_WINDOW_ROWS)
    is_spent = False
    async with AsyncExitStack() as stack:
        judge = await stack.enter_async_context(
            own_judge(
                config,
                identity,
                account=f"judge-{secrets.token_hex(8)}",
                cache=_cache(job, stack),
                templates=job.templates,
            )
        )
        graded = grade(
            itertools.takewhile(lambda _: not is_spent, todo),
            judge,
            rubrics=job.rubrics,
            max_in_flight=config.num_workers * config.max_in_flight_per_worker,
        )
        async for rows in await stack.enter_async_context(aclosing(graded)):
            affordable = [row for row in rows if not _is_out_of_budget(row)]
            # What is out is paid for: it is waited for, and nothing new is begun.
            is_spent = is_spent or len(affordable) < len(rows)
            file.append(affordable)
            progress.add(affordable)
            recent.extend(row.reward is None for row in affordable)
            _stop_if_judge_is_down(recent, job)
    if is_spent:
        raise BudgetExhaustedError(_out_of_budget(job, file))


def _with_what_is_left(job: _Job, spent_usd: float) -> JudgeConfig:
    """The budget counts over all runs on the same output."""
    most = job.judge.budget.max_cost_usd
    if most is None or job.llm is None:
        return job.judge
    if spent_usd >= most:
        raise BudgetExhaustedError(
            f"{job.out} has cost {dollars(spent_usd)} already, and judge.budget.max_cost_usd="
            f"{most:g}: raise it to go on"
        )
    budget = job.judge.budget.model_copy(update={"max_cost_usd": most - spent_usd})
    return job.judge.model_copy(update={"budget": budget})


def _cache(job: _Job, stack: AsyncExitStack) -> VerdictCache | None:
    settings = job.judge.cache
    if job.llm is None or not settings.enabled:
        return None
    folder = Path(settings.dir) if settings.dir else job.out.with_name(f"{job.out.name}.verdicts")
    cache = VerdictCache(folder)
    stack.callback(cache.close)
    return cache


def _is_out_of_budget(row: GradedRow) -> bool:
    """Such a row is not kept: nothing is wrong with the answer or the judge."""
    return any(verdict.cause is FailureCause.BUDGET for verdict in row.verdicts)


def _out_of_budget(job: _Job, file: GradedFile) -> str:
    return (
        f"judge.budget.max_cost_usd={job.judge.budget.max_cost_usd:g} doesn't allow another call "
        f"({dollars(file.usage.cost_usd)} spent): {len(file.rows)} answers are in {job.out}; raise "
        "it, and the same command goes on"
    )


def _stop_if_judge_is_down(recent: deque[bool], job: _Job) -> None:
    """Rather than have every answer of a long file fail."""
    share = sum(recent) / len(recent) if recent else 0.0
    if len(recent) == recent.maxlen and share > job.rubrics.max_unscored_frac:
        raise JudgeFailureError(
            f"{sum(recent)} of the last {len(recent)} answers could not be scored: see the causes "
            f"in {job.out}, and go on with --retry-unknown"
        )


def _check_unscored(rows: Sequence[GradedRow], job: _Job) -> None:
    unscored = sum(row.reward is None for row in rows)
    if rows and unscored / len(rows) > job.rubrics.max_unscored_frac:
        raise JudgeFailureError(
            f"{unscored} of {len(rows)} answers are unscored, more than "
            f"rubrics.max_unscored_frac={job.rubrics.max_unscored_frac:g}: see the causes in "
            f"{job.out}, and try them again with --retry-unknown"
        )
