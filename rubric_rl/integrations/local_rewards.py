"""Rewards judged in this process, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager

from hydra.core.global_hydra import GlobalHydra

from rubric_rl.commands.judge_inputs import judge_config, prompts_with_rubrics
from rubric_rl.integrations.scored_answers import ScoredAnswer, ScoreRequest
from rubric_rl.integrations.scorer import Scorer, judge_for, open_scorer


class LocalRewards:
    """A judge of this process alone: its budget and its limits are not shared with others."""

    def __init__(self, rubrics: str, overrides: Sequence[str] = (), layout: str = "auto") -> None:
        """Read the rubrics and try the judge's endpoints.

        Args:
            rubrics: File with the prompts and their rubrics, or `builtin:NAME`.
            overrides: As for `rubric-rl judge`: of the sections judge and rubrics.
            layout: Of the file.

        Raises:
            ConfigError, DataError, EndpointError: with what to change.
        """
        with _hydra_set_aside():
            config = judge_config(overrides, what="a reward function")
        prompts = prompts_with_rubrics(rubrics, layout)
        judge = judge_for(config, prompts)
        self._stack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        # A daemon: a trainer that ends need not know of it.
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        opening = self._stack.enter_async_context(open_scorer(judge, config.rubrics, prompts))
        try:
            self._scorer: Scorer = asyncio.run_coroutine_threadsafe(opening, self._loop).result()
        except BaseException:
            self._stop_loop()
            raise

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoredAnswer]:
        """In the order of `requests`. Raises DataError for a prompt that isn't known."""
        return asyncio.run_coroutine_threadsafe(self._score(requests), self._loop).result()

    def close(self) -> None:
        """End the judge; the source can't be used any more."""
        asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result()
        self._stop_loop()

    async def _score(self, requests: Sequence[ScoreRequest]) -> list[ScoredAnswer]:
        answers = [self._scorer.answer(request) for request in requests]
        rows = await self._scorer.grade(answers)
        return [self._scorer.scored(a, row) for a, row in zip(answers, rows, strict=True)]

    def _stop_loop(self) -> None:
        ending = self._loop.shutdown_default_executor()
        asyncio.run_coroutine_threadsafe(ending, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def _hydra_set_aside() -> Generator[None]:
    """There is one Hydra in a process, and the trainer may be run by it."""
    trainers = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        # Hydra puts another instance there in between.
        GlobalHydra.instance().hydra = trainers
