"""Answers judged on one event loop, for the reward server and for adapters in a trainer's process.

ScoreRequest --PromptLookup--> Answer --judge, within a time limit--> GradedRow, or None
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.schema import Config, RubricsConfig
from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError
from rubric_rl.integrations.prompt_lookup import PromptLookup
from rubric_rl.integrations.scored_answers import ScoredAnswer, ScoreRequest
from rubric_rl.judging.assembly import own_judge
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.endpoint import check_judge, check_price
from rubric_rl.judging.graded_rows import GradedRow
from rubric_rl.judging.grading import Answer, Judge, grade_one
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.judging.templates import JudgeTemplates


class Scorer:
    """Judges answers to known prompts."""

    def __init__(
        self,
        judge: Judge,
        prompts: Mapping[str, LoadedPrompt],
        rubrics: RubricsConfig,
        *,
        max_in_flight: int,
    ) -> None:
        self.lookup = PromptLookup(prompts)
        self.rubrics = rubrics
        self._judge = judge
        self._room = asyncio.Semaphore(max_in_flight)

    def answer(self, request: ScoreRequest) -> Answer:
        """The request with its prompt and rubric. Raises DataError as `PromptLookup.find`."""
        prompt = self.lookup.find(request)
        return Answer(
            row_id=prompt.record.prompt_id,
            record=prompt.record,
            rubric=prompt.rubric,
            response=request.response,
        )

    async def grade(
        self, answers: Sequence[Answer], timeout_s: float | None = None
    ) -> list[GradedRow | None]:
        """Rows in the order of `answers`; None for what isn't judged after `timeout_s`."""
        tasks = [asyncio.create_task(self._grade(answer)) for answer in answers]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_s)
            return [task.result() if task.done() else None for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _grade(self, answer: Answer) -> GradedRow:
        async with self._room:
            return await grade_one(answer, "", self._judge, self.rubrics)

    def scored(self, answer: Answer, row: GradedRow | None) -> ScoredAnswer:
        """What a trainer is told of one answer."""
        return ScoredAnswer(
            prompt_id=answer.record.prompt_id,
            reward=None if row is None else row.reward,
            coverage=0.0 if row is None else row.coverage,
            unscored=self._why_unscored(row),
        )

    def _why_unscored(self, row: GradedRow | None) -> str | None:
        if row is None:
            return "not judged within the time limit of the request"
        if row.reward is not None:
            return None
        unknown = ", ".join(f"{v.cid} ({v.cause})" for v in row.verdicts if v.cause is not None)
        return (
            f"judged weight {row.coverage:.2f}, rubrics.min_coverage="
            f"{self.rubrics.min_coverage:g}, unknown: {unknown}"
        )


def judge_for(config: Config, prompts: Mapping[str, LoadedPrompt]) -> JudgeConfig:
    """The judge, without its LLM where rules decide every criterion.

    Raises:
        ConfigError: criteria have no judge, or money is limited and the price not known.
    """
    judge = config.judge
    if judge.grades_whole_answers:
        raise ConfigError(
            "rewards are served for rubrics, and this judge grades answers as a whole: choose "
            "judge.llm.mode=all, chunk or each, and no judge.reward_model"
        )
    check_rubrics((prompt.rubric for prompt in prompts.values()), has_llm=judge.llm is not None)
    criteria = [c for prompt in prompts.values() for c in prompt.rubric.criteria]
    if all(criterion.rule is not None for criterion in criteria):
        return judge.model_copy(update={"llm": None})
    if judge.llm is not None:
        check_price(judge.llm, judge.budget)
    return judge


@asynccontextmanager
async def open_scorer(
    judge: JudgeConfig, rubrics: RubricsConfig, prompts: Mapping[str, LoadedPrompt]
) -> AsyncGenerator[Scorer]:
    """A scorer with a judge of its own, on the running loop; closed at the end.

    Without `judge.cache.dir`, verdicts are kept until then: what is asked for again because a
    part of it failed costs that part only.

    Args:
        judge: As `judge_for` gives it.
        rubrics: How a reward is made of verdicts.
        prompts: By id, with their rubrics.

    Raises:
        ConfigError, EndpointError: the judge can't be asked.
    """
    llm = judge.llm
    identity = None if llm is None else await check_judge(llm)
    async with AsyncExitStack() as stack:
        cache = None
        if llm is not None and judge.cache.enabled:
            folder = judge.cache.dir or stack.enter_context(
                tempfile.TemporaryDirectory(prefix="rubric-rl-", ignore_cleanup_errors=True)
            )
            cache = VerdictCache(Path(folder))
            stack.callback(cache.close)
        opened = await stack.enter_async_context(
            own_judge(
                judge,
                identity,
                account=f"rewards-{secrets.token_hex(8)}",
                cache=cache,
                templates=JudgeTemplates.load(None if llm is None else llm.template_dir),
            )
        )
        in_flight = judge.num_workers * judge.max_in_flight_per_worker
        yield Scorer(opened, prompts, rubrics, max_in_flight=in_flight)
