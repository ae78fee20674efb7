"""The micro-batches of one rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from rubric_rl.config.learner import LearnerConfig
from rubric_rl.learner.batch import (
    MicroBatchTensors,
    build_micro_batch,
    build_packed_micro_batch,
    without_weight,
)
from rubric_rl.learner.microbatches import plan_micro_batches
from rubric_rl.types import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class RankShare:
    """How samples are dealt to a rank and laid out for its model."""

    config: LearnerConfig
    rank: int
    num_ranks: int
    device: torch.device

    def of(
        self, samples: Sequence[TrainSample]
    ) -> Iterator[tuple[tuple[int, ...], MicroBatchTensors]]:
        """Each micro-batch with the indices of its samples; every rank gets as many of them.

        Where a rank has run out of samples, it gets a micro-batch without weight and indices.
        """
        packs = self.config.packing
        plan = plan_micro_batches(
            [(len(s.prompt_token_ids), len(s.completion_token_ids)) for s in samples],
            num_ranks=self.num_ranks,
            token_budget=self.config.micro_batch_tokens,
            shared_prompts=[s.prompt_token_ids for s in samples] if packs else None,
        )
        for indices in plan[self.rank]:
            if indices:
                yield indices, self._build([samples[i] for i in indices])
            else:
                yield indices, without_weight(self._build(samples[:1]))

    def _build(self, samples: Sequence[TrainSample]) -> MicroBatchTensors:
        if self.config.packing:
            return build_packed_micro_batch(samples, self.device)
        return build_micro_batch(samples, self.device)
