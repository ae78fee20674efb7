"""What a reward model is trained on, and what a step of it did; no heavy imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """Two answers to one conversation, each with the conversation before it."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """One optimizer step's pairs, all ranks together, in an order that any run repeats."""

    step: int
    pairs: tuple[TokenPair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardUpdate:
    """What one optimizer step did."""

    policy_version: int
    """Completed steps."""
    loss: float
    """Mean over the pairs, nats."""
    accuracy: float
    """Share of pairs that the model ordered rightly before the step, ties as half."""
    margin: float
    """Mean reward of the preferred answers above that of the others."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    num_tokens: int


def ordered_rightly(margin: float) -> float:
    """1 for a pair that is ordered rightly, 0 for one that isn't, half for a tie."""
    return 0.5 if margin == 0 else float(margin > 0)
