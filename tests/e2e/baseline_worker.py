"""One learner rank of `test_baseline_learners`, as a process of its own.

    python baseline_worker.py JOB.json RANK

Trains a reward model on ZeRO 2 and 3, then fine-tunes on answers, with real DeepSpeed engines.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rubric_rl.baselines.sft_examples import example
from rubric_rl.config.algorithm import AlgorithmConfig
from rubric_rl.config.schema import LearnerConfig, ModelConfig
from rubric_rl.learner.learner import Learner
from rubric_rl.learner.pairs import PairBatch, TokenPair
from rubric_rl.learner.reward_learner import RewardLearner
from rubric_rl.learner.spec import LearnerSpec, RankInfo
from rubric_rl.types import TrainBatch

BUCKET_BYTES = 10_000


class Rank:
    """The experiments of one rank."""

    def __init__(self, job: dict[str, Any], rank: int) -> None:
        self.job = job
        self.info = RankInfo(
            rank=rank,
            num_ranks=job["num_ranks"],
            master_address="127.0.0.1",
            master_port=job["port"],
        )
        self.directory = Path(job["directory"])

    def spec(self, **learner: Any) -> LearnerSpec:
        settings = {"num_workers": self.info.num_ranks, "reference": "none", **learner}
        return LearnerSpec(
            model_path=self.job["model_path"],
            model=ModelConfig(name_or_path=self.job["model_path"]),
            learner=LearnerConfig(**settings),
            algorithm=AlgorithmConfig(advantage="best_of_group", policy_loss="rft", kl_coef=0.0),
            device="cpu",
            num_steps=self.job["num_steps"],
            seed=3,
        )

    def reward(self, zero_stage: int) -> dict[str, Any]:
        """Trained, saved, gone on with, loaded elsewhere, exported."""
        spec = self.spec(zero_stage=zero_stage, **self.job["learner"])
        learner = RewardLearner(spec, self.info)
        train, held_out = self._pairs("train"), self._pairs("held_out")
        before = learner.margins(held_out)
        updates = [self._update(learner, train, step) for step in range(self.job["num_steps"])]
        after = learner.margins(held_out)
        checkpoint = self.directory / f"checkpoint{zero_stage}"
        checkpoint.mkdir(exist_ok=True)
        learner.save(checkpoint)
        export = self.directory / f"export{zero_stage}"
        export.mkdir(exist_ok=True)
        learner.export(export, BUCKET_BYTES)
        self._update(learner, train, 0)
        fresh = RewardLearner(spec, self.info)
        version = fresh.load(checkpoint)
        return {
            "before": before,
            "updates": updates,
            "after": after,
            "loaded": [version, fresh.margins(held_out)],
        }

    def sft(self) -> dict[str, Any]:
        learner = Learner(self.spec(zero_stage=2, packing=True, **self.job["learner"]), self.info)
        samples = tuple(example(prompt, answer) for prompt, answer in self.job["answers"])
        updates = [
            dataclasses.asdict(learner.update(TrainBatch(step=s, samples=samples, temperature=1.0)))
            for s in range(self.job["num_steps"])
        ]
        return {"losses": [update["loss"] for update in updates]}

    def _pairs(self, name: str) -> tuple[TokenPair, ...]:
        return tuple(
            TokenPair(chosen=tuple(pair["chosen"]), rejected=tuple(pair["rejected"]))
            for pair in self.job[name]
        )

    def _update(
        self, learner: RewardLearner, pairs: tuple[TokenPair, ...], step: int
    ) -> dict[str, Any]:
        return dataclasses.asdict(learner.update(PairBatch(step=step, pairs=pairs)))


def main(arguments: Sequence[str]) -> None:
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    rank = Rank(job, int(arguments[1]))
    results = {"reward2": rank.reward(2), "reward3": rank.reward(3), "sft": rank.sft()}
    path = rank.directory / f"rank{rank.info.rank}.json"
    path.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
