"""What the two baselines do in a step and in an evaluation; the loop is the same for both."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from rubric_rl.baselines.preference_pairs import TokenPairs
from rubric_rl.baselines.sft_examples import Examples
from rubric_rl.learner.pairs import PairBatch, RewardUpdate, TokenPair, ordered_rightly
from rubric_rl.types import TrainBatch, TrainSample, UpdateResult


class Task(Protocol):
    """Training examples by index, learned from so many at a time."""

    @property
    def num_train(self) -> int: ...

    @property
    def per_step(self) -> int: ...

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) over all examples in their order."""
        ...

    async def update(self, step: int, indices: Sequence[int]) -> dict[str, float]:
        """One optimizer step on these examples; its metrics."""
        ...

    async def evaluate(self) -> dict[str, float]:
        """Metrics of the held-out examples; none if there are none."""
        ...


class PolicyLearner(Protocol):
    """The learner of the policy, as SFT uses it."""

    async def update(self, batch: TrainBatch) -> UpdateResult: ...

    async def log_probs(self, batch: TrainBatch) -> list[list[float]]:
        """Of each sample's completion tokens."""
        ...


class PairLearner(Protocol):
    """The learner of a reward model."""

    async def update(self, batch: PairBatch) -> RewardUpdate: ...

    async def margins(self, pairs: tuple[TokenPair, ...]) -> list[float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SftTask:
    """Negative log-likelihood of answers, a mean over the tokens of a step."""

    learner: PolicyLearner
    examples: Examples
    per_step: int

    @property
    def num_train(self) -> int:
        return len(self.examples.train)

    @property
    def data_hash(self) -> str:
        samples = (*self.examples.train, *self.examples.held_out)
        return _hash([[s.prompt_token_ids, s.completion_token_ids] for s in samples])

    async def update(self, step: int, indices: Sequence[int]) -> dict[str, float]:
        update = await self.learner.update(_batch(step, [self.examples.train[i] for i in indices]))
        return {
            "sft/loss": update.loss,
            "policy/grad_norm": update.grad_norm,
            "policy/learning_rate": update.learning_rate,
            "policy/version": update.policy_version,
        }

    async def evaluate(self) -> dict[str, float]:
        held_out = self.examples.held_out
        if not held_out:
            return {}
        log_probs = await self.learner.log_probs(_batch(0, held_out))
        return {"sft/eval_loss": -fmean(value for own in log_probs for value in own)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTask:
    """The Bradley-Terry loss of pairs, a mean over the pairs of a step."""

    learner: PairLearner
    pairs: TokenPairs
    per_step: int

    @property
    def num_train(self) -> int:
        return len(self.pairs.train)

    @property
    def data_hash(self) -> str:
        return _hash([[p.chosen, p.rejected] for p in (*self.pairs.train, *self.pairs.held_out)])

    async def update(self, step: int, indices: Sequence[int]) -> dict[str, float]:
        pairs = tuple(self.pairs.train[i] for i in indices)
        update = await self.learner.update(PairBatch(step=step, pairs=pairs))
        return {
            "rm/loss": update.loss,
            "rm/accuracy": update.accuracy,
            "rm/margin": update.margin,
            "policy/grad_norm": update.grad_norm,
            "policy/learning_rate": update.learning_rate,
            "policy/version": update.policy_version,
        }

    async def evaluate(self) -> dict[str, float]:
        if not self.pairs.held_out:
            return {}
        margins = await self.learner.margins(self.pairs.held_out)
        return {
            "rm/eval_loss": fmean(_loss(margin) for margin in margins),
            "rm/eval_accuracy": fmean(ordered_rightly(margin) for margin in margins),
            "rm/eval_margin": fmean(margins),
        }


def _batch(step: int, samples: Sequence[TrainSample]) -> TrainBatch:
    return TrainBatch(step=step, samples=tuple(samples), temperature=1.0)


def _loss(margin: float) -> float:
    """log(1 + exp(-margin)), for margins of any size."""
    return max(0.0, -margin) + math.log1p(math.exp(-abs(margin)))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
