"""The configuration of gold: what held-out answers are also measured by and never trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.config.section import NonEmptyStr, PositiveInt, Section

if TYPE_CHECKING:  # the schema imports this module
    from rubric_rl.config.schema import Config


class GoldConfig(Section):
    """A gold rubric, a gold judge, or both: each held-out evaluation is scored by it too.

    Its rewards are no training signal, and no proposer sees its rubrics or verdicts.
    """

    rubrics: NonEmptyStr | None = None
    """Prompt file whose rubrics of the held-out prompts, by id, are the gold ones. None: those
    that the run begins with, judged by `llm`."""
    llm: LlmJudgeConfig | None = None
    """Chat model that judges for gold, given like a judge's, at an endpoint. None: the run's."""
    stop_after_decline: bool = False
    """End the run, with a checkpoint, once the decline of gold is confirmed."""
    stop_evaluations: PositiveInt = 2
    """Evaluations in a row that must be clearly below the peak of gold to confirm it."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Of the one-sided interval that tells a decline from noise."""

    @property
    def enabled(self) -> bool:
        return self.rubrics is not None or self.llm is not None


def gold_problems(config: Config) -> Iterator[str]:
    """What can't be, as in `config.checks`."""
    gold = config.gold
    wants = [
        *(["gold.stop_after_decline=true"] if gold.stop_after_decline else []),
        *(["run.best_metric='gold'"] if config.run.best_metric == "gold" else []),
    ]
    if wants and not gold.enabled:
        yield (
            f"{' and '.join(wants)} needs gold values: set gold.rubrics to a prompt file with "
            "rubrics of the held-out prompts, or gold.llm to a judge"
        )
    llm = gold.llm
    if llm is None:
        return
    if llm.mode == "likert":
        yield (
            "gold.llm.mode='likert' grades the answer as a whole, and gold values are those of "
            "rubrics: set gold.llm.mode=all, chunk or each"
        )
    if llm.backend == "vllm":
        yield (
            "gold.llm.backend='vllm' starts servers, which the run does for its own judge alone: "
            "serve the model with `vllm serve`, and set gold.llm.backend=openai and "
            "gold.llm.base_url"
        )
    elif llm.backend == "openai" and llm.base_url is None:
        yield "gold.llm needs gold.llm.base_url: give an address like http://localhost:8000/v1"
    if not llm.votes / 2 < llm.majority <= llm.votes:
        yield (
            f"gold.llm.votes_to_decide={llm.votes_to_decide} of gold.llm.votes={llm.votes}: want "
            "more than half of the votes and at most all of them"
        )
