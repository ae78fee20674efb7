"""Score a pool's answers with their rubrics, by rules or by a judge, without a cluster.

Verdicts of a judge are kept on disk, so that the same command doesn't pay for them again.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

from rubric_rl.commands.progress import bar_with_counts
from rubric_rl.commands.theory_inputs import PoolAnswers, Valued
from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.schema import RubricsConfig
from rubric_rl.errors import BudgetExhaustedError, JudgeFailureError
from rubric_rl.judging.assembly import OwnJudge, own_judge
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.endpoint import check_judge
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.refinement.passes import side_by_side
from rubric_rl.refinement.records import ScoredCandidate
from rubric_rl.refinement.scoring import score_all
from rubric_rl.types import FailureCause

# Requests that are out at once are limited by judge.budget; this only bounds what waits.
_PROMPTS_AT_ONCE = 16


async def rubric_values(
    pool: PoolAnswers, judge: JudgeConfig, rubrics: RubricsConfig, *, cache_dir: Path
) -> list[Valued]:
    """Each answer with its reward; None where too much of it could not be judged.

    Args:
        pool: Answers and the rubrics of their prompts.
        judge: Without an LLM where rules decide every criterion.
        rubrics: How a reward is made of verdicts.
        cache_dir: Where verdicts are kept, unless judge.cache.dir says otherwise.

    Raises:
        EndpointError: the judge can't be asked.
        BudgetExhaustedError: the money is spent before all is judged.
        JudgeFailureError: more answers than rubrics.max_unscored_frac are unscored.
    """
    with closing(_Progress(len(pool.candidates))) as progress:
        async with _judge(judge, cache_dir) as opened:

            async def scored(prompt_id: str) -> list[ScoredCandidate]:
                loaded, own = pool.prompts[prompt_id], pool.by_prompt[prompt_id]
                found = await score_all(opened, loaded.record, loaded.rubric, own, rubrics)
                progress.done(found)
                return found

            by_prompt = await side_by_side(list(pool.by_prompt), scored, at_once=_PROMPTS_AT_ONCE)
    answers = [answer for own in by_prompt for answer in own]
    _refuse_failures(answers, judge, rubrics, progress.cost_usd)
    return [Valued(key=pool.key(answer.candidate), value=answer.score) for answer in answers]


@asynccontextmanager
async def _judge(judge: JudgeConfig, cache_dir: Path) -> AsyncGenerator[OwnJudge]:
    llm = judge.llm
    identity = None if llm is None else await check_judge(llm)
    async with AsyncExitStack() as stack:
        cache = None
        if llm is not None and judge.cache.enabled:
            cache = VerdictCache(Path(judge.cache.dir) if judge.cache.dir else cache_dir)
            stack.callback(cache.close)
        yield await stack.enter_async_context(
            own_judge(
                judge,
                identity,
                account=f"theory-{secrets.token_hex(8)}",
                cache=cache,
                templates=JudgeTemplates.of(llm),
            )
        )


def _refuse_failures(
    answers: list[ScoredCandidate], judge: JudgeConfig, rubrics: RubricsConfig, cost_usd: float
) -> None:
    if any(v.cause is FailureCause.BUDGET for answer in answers for v in answer.verdicts):
        raise BudgetExhaustedError(
            f"judge.budget.max_cost_usd={judge.budget.max_cost_usd} doesn't allow another call "
            f"(${cost_usd:.2f} spent): raise it, and the same command goes on from the verdicts "
            "that are kept"
        )
    unscored = sum(answer.score is None for answer in answers)
    if unscored > rubrics.max_unscored_frac * len(answers):
        raise JudgeFailureError(
            f"{unscored} of {len(answers)} answers could not be scored, more than "
            f"rubrics.max_unscored_frac={rubrics.max_unscored_frac:g}: look at the judge's "
            "endpoint. The same command judges them again"
        )


class _Progress:
    """A bar with counts on stderr, and what was spent."""

    def __init__(self, total: int) -> None:
        self._bar = bar_with_counts()
        self._task = self._bar.add_task("scoring", total=total, counts="")
        self._unscored = 0
        self.cost_usd = 0.0
        self._bar.start()

    def done(self, answers: list[ScoredCandidate]) -> None:
        self._unscored += sum(answer.score is None for answer in answers)
        self.cost_usd += sum(answer.cost_usd for answer in answers)
        counts = f"unscored {self._unscored}, ${self.cost_usd:.2f}"
        self._bar.update(self._task, advance=len(answers), counts=counts)

    def close(self) -> None:
        self._bar.stop()
