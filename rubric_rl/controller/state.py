"""What the controller must remember between steps; its part of a checkpoint.

A state is a value: the `after_` methods return the next one and nothing else
makes one during a run. Work in progress is never in it, so a run that is killed
anywhere goes on from its last complete step as if nothing had happened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from rubric_rl.controller.judging_tally import JudgingTally
from rubric_rl.errors import DataError
from rubric_rl.evaluation.overoptimisation import Gold, GoldWatch, watched

FORMAT: Literal["rubric_rl.train_state/1"] = "rubric_rl.train_state/1"
_CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptUse:
    """The prompts that one step used up, and how the judging of their samples went."""

    prompt_ids: tuple[str, ...]
    epoch_size: int
    """Prompts of one epoch: with the last of them the next epoch begins."""
    tally: JudgingTally
    window_steps: int
    """How many steps' tallies are kept."""
    cost_usd: float = 0.0
    """What judging the samples cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Where the run is. `step` counts completed optimizer steps: it is the policy version."""

    __pydantic_config__: ClassVar[ConfigDict] = _CLOSED

    step: NonNegativeInt = 0
    epoch: NonNegativeInt = 0
    consumed: tuple[str, ...] = ()
    """Prompts of the current epoch that completed steps used up, in order, refills included."""
    total_consumed: NonNegativeInt = 0
    """The same over all epochs, counted."""
    rubric_version: NonNegativeInt
    rubric_hash: str
    """`RubricSet.content_hash` of the rubrics in force."""
    phase: Literal["training", "refining"] = "training"
    """`refining`: the rubrics in force are to be refined before the next step."""
    data_hash: str | None = None
    """Of all prompts' words; older checkpoints don't have it."""
    refined_at: NonNegativeInt | None = None
    """The step after which rubrics were refined last."""
    window: tuple[JudgingTally, ...] = ()
    """The last steps' judging, oldest first, at most `rubrics.unscored_window_steps`."""
    last_eval_step: NonNegativeInt | None = None
    last_eval_value: float | None = None
    """None if nothing was scored; older checkpoints don't have it."""
    eval_metric: str | None = None
    """What `last_eval_value` and `best_eval_reward` are values of."""
    best_eval_step: NonNegativeInt | None = None
    """Of equal values the first."""
    best_eval_reward: float | None = None
    dearest_step_usd: NonNegativeFloat = 0.0
    """The most that judging one step's samples has cost; older checkpoints don't have it."""
    dearest_eval_usd: NonNegativeFloat = 0.0
    """The same of an evaluation."""
    gold: GoldWatch | None = None
    """Peak and decline of the gold values so far; None before the first."""
    gold_hash: str | None = None
    """`RubricSet.content_hash` of the gold rubrics; None: there is no gold."""
    gold_usd: NonNegativeFloat = 0.0
    """What gold has cost beside what the judges say was spent."""

    def after_step(self, policy_version: int, use: PromptUse) -> TrainState:
        """The state once a step is complete: updated, and served by every engine."""
        assert policy_version == self.step + 1
        return replace(self.after_skipped_step(use), step=policy_version)

    def after_skipped_step(self, use: PromptUse) -> TrainState:
        """The state once prompts were used up that gave nothing to learn from."""
        position = self.consumed + use.prompt_ids
        assert len(position) <= use.epoch_size
        ends_epoch = len(position) == use.epoch_size
        return replace(
            self,
            epoch=self.epoch + ends_epoch,
            consumed=() if ends_epoch else position,
            total_consumed=self.total_consumed + len(use.prompt_ids),
            window=(*self.window, use.tally)[-use.window_steps :],
            dearest_step_usd=max(self.dearest_step_usd, use.cost_usd),
        )

    def after_eval(self, value: float | None, *, metric: str, cost_usd: float = 0.0) -> TrainState:
        """The state once the policy of this step was evaluated.

        Args:
            value: None if nothing was scored.
            metric: What it is a value of; values of another metric are not compared with it.
            cost_usd: What judging the evaluation cost.
        """
        evaluated = replace(
            self,
            last_eval_step=self.step,
            last_eval_value=value,
            eval_metric=metric,
            dearest_eval_usd=max(self.dearest_eval_usd, cost_usd),
        )
        best = self.best_eval_reward if metric == self.eval_metric else None
        if value is None or (best is not None and value <= best):
            return evaluated
        return replace(evaluated, best_eval_step=self.step, best_eval_reward=value)

    def after_gold(
        self, gold: Gold | None, *, confidence: float, cost_usd: float = 0.0
    ) -> TrainState:
        """The state once gold was measured for the policy of this step; None: it has no value."""
        paid = replace(self, gold_usd=self.gold_usd + cost_usd)
        if gold is None:
            return paid
        watch = watched(self.gold, self.step, gold, confidence=confidence)
        return replace(paid, gold=watch)

    @property
    def is_best(self) -> bool:
        """Whether the policy of this step did better than all that were evaluated before."""
        return self.best_eval_step == self.step

    def before_refinement(self) -> TrainState:
        """The state in which the rubrics are refined: a run that is killed goes on with that."""
        return replace(self, phase="refining")

    def after_refinement(self, rubric_version: int, rubric_hash: str) -> TrainState:
        """The state under the next rubrics, or under the same if none was accepted."""
        return replace(
            self,
            phase="training",
            refined_at=self.step,
            rubric_version=rubric_version,
            rubric_hash=rubric_hash,
        )

    def with_empty_window(self) -> TrainState:
        """For the checkpoint of a run that the window stopped: what follows is judged afresh."""
        return replace(self, window=())

    def to_json(self) -> str:
        return _StateFile(format=FORMAT, state=self).model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> TrainState:
        """Read what `to_json` wrote. Raises DataError on anything else, and says what differs."""
        try:
            return _StateFile.model_validate_json(text, strict=True).state
        except ValidationError as err:
            details = "; ".join(
                f"{'.'.join(str(part) for part in error['loc']) or 'file'}: {error['msg']}"
                for error in err.errors(include_url=False)
            )
            raise DataError(
                f"not a training state of format {FORMAT}: {details}. It was written by another "
                "version or damaged: resume from another checkpoint"
            ) from err


class _StateFile(BaseModel):
    """The file's layout; its format changes when a field changes its name or meaning."""

    model_config = _CLOSED

    format: Literal["rubric_rl.train_state/1"]
    state: TrainState
