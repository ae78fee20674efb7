"""A grading run: answers in, graded rows in a file out, whatever stops it in between.

Commands that need graded answers share it. What is in the file with the same prompt,
response, rubric and judge is not graded again, and the budget counts over all runs on it.
"""

from __future__ import annotations

import itertools
import secrets
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from rubric_rl.commands.judge_progress import GradingProgress, dollars, print_closing, print_plan
from rubric_rl.commands.judge_stops import RecentFailures, with_what_is_left
from rubric_rl.config.judge import JudgeConfig, LlmJudgeConfig
from rubric_rl.config.schema import Config, RubricsConfig
from rubric_rl.errors import BudgetExhaustedError, JudgeFailureError
from rubric_rl.judging.assembly import judge_templates, own_judge
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.endpoint import JudgeIdentity, check_judge, check_price
from rubric_rl.judging.graded_rows import GradedFile, GradedRow, read_graded
from rubric_rl.judging.grading import Answer, content_hash, grade, reward_model_hash
from rubric_rl.judging.grading_plan import plan_grading
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.judging.model_table import prices_of
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.rubrics.whole_answer import whole_answer_rubric
from rubric_rl.types import FailureCause


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingJob:
    """What is to be graded, how and where to, checked."""

    answers: tuple[Answer, ...]
    judge: JudgeConfig
    """Without an LLM where rules decide every criterion."""
    rubrics: RubricsConfig
    templates: JudgeTemplates
    out: Path
    retry_unknown: bool
    spent_elsewhere_usd: float = 0.0
    """Of the same budget, what isn't in `out`."""

    @property
    def llm(self) -> LlmJudgeConfig | None:
        return self.judge.llm


def grading_job(
    answers: Sequence[Answer],
    config: Config,
    *,
    out: Path,
    retry_unknown: bool,
    spent_elsewhere_usd: float = 0.0,
) -> GradingJob:
    """Check that each criterion has a judge, and each limit of money a price.

    Where answers are graded as a whole, their rubrics are set aside.

    Raises ConfigError.
    """
    judge = config.judge
    if judge.grades_whole_answers:
        answers = [replace(a, rubric=whole_answer_rubric(a.record.prompt_id)) for a in answers]
    check_rubrics((answer.rubric for answer in answers), has_llm=not judge.needs_rules)
    if all(c.rule is not None for answer in answers for c in answer.rubric.criteria):
        judge = judge.model_copy(update={"llm": None})
    if judge.llm is not None:
        check_price(judge.llm, judge.budget)
    return GradingJob(
        answers=tuple(answers),
        judge=judge,
        rubrics=config.rubrics,
        templates=judge_templates(judge),
        out=out,
        retry_unknown=retry_unknown,
        spent_elsewhere_usd=spent_elsewhere_usd,
    )


def tell_grading(job: GradingJob) -> None:
    """What a dry run says of it. Without asking who judges, only ids can be compared."""
    done: set[str] = set()
    if job.out.exists() and job.out.stat().st_size:
        done = {row.row_id for row in read_graded(job.out)}
    todo = [answer for answer in job.answers if answer.row_id not in done]
    print_plan(plan_grading(todo, job.llm, job.templates), len(job.answers) - len(todo), sys.stdout)


async def run_grading(job: GradingJob, closing: TextIO) -> list[GradedRow]:
    """Grade what isn't graded yet; gives all answers' rows, and a table of them to `closing`.

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
            print_closing(rows, file.usage.cost_usd, closing, has_price=has_price)
    _check_unscored(rows, job)
    return rows


def _digest(answer: Answer, job: GradingJob, identity: JudgeIdentity | None) -> str:
    template_hash = job.templates.template_hash
    if job.judge.reward_model is not None:
        return reward_model_hash(answer, template_hash)
    return content_hash(answer, job.llm, identity, template_hash, job.rubrics)


def _is_done(row: GradedRow | None, digest: str, job: GradingJob) -> bool:
    if row is None or row.content_hash != digest:
        return False
    return not (job.retry_unknown and row.num_unknown)


def _announce(job: GradingJob, file: GradedFile, num_todo: int, progress: GradingProgress) -> None:
    if file.num_torn_bytes:
        progress.note(f"{job.out}: removed a last line that was cut off")
    changed = sum(answer.row_id in file.rows for answer in job.answers)
    changed -= len(job.answers) - num_todo
    progress.note(
        f"{num_todo} of {len(job.answers)} answers to grade"
        + (f", {changed} of them anew" if changed else "")
    )


async def _grade(
    job: GradingJob,
    identity: JudgeIdentity | None,
    todo: Sequence[tuple[Answer, str]],
    file: GradedFile,
    progress: GradingProgress,
) -> None:
    config = job.judge
    if todo:
        spent_usd = job.spent_elsewhere_usd + file.usage.cost_usd
        config = with_what_is_left(job.judge, spent_usd, job.out)
    recent = RecentFailures(job.rubrics.max_unscored_frac, "answers could not be scored", job.out)
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
            recent.add(row.reward is None for row in affordable)
    if is_spent:
        raise BudgetExhaustedError(_out_of_budget(job, file))


def _cache(job: GradingJob, stack: AsyncExitStack) -> VerdictCache | None:
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


def _out_of_budget(job: GradingJob, file: GradedFile) -> str:
    return (
        f"judge.budget.max_cost_usd={job.judge.budget.max_cost_usd:g} doesn't allow another call "
        f"({dollars(file.usage.cost_usd)} spent): {len(file.rows)} answers are in {job.out}; raise "
        "it, and the same command goes on"
    )


def _check_unscored(rows: Sequence[GradedRow], job: GradingJob) -> None:
    unscored = sum(row.reward is None for row in rows)
    if rows and unscored / len(rows) > job.rubrics.max_unscored_frac:
        raise JudgeFailureError(
            f"{unscored} of {len(rows)} answers are unscored, more than "
            f"rubrics.max_unscored_frac={job.rubrics.max_unscored_frac:g}: see the causes in "
            f"{job.out}, and try them again with --retry-unknown"
        )
