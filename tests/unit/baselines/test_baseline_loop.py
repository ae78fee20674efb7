"""The loop of a supervised baseline: order, evaluations, checkpoints, and going on after a kill."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rubric_rl.baselines.loop import SupervisedRun, first_state, indices_of, total_steps
from rubric_rl.baselines.preference_pairs import TokenPairs
from rubric_rl.baselines.sft_examples import Examples, example
from rubric_rl.baselines.tasks import RewardTask, SftTask
from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.controller import checkpoints
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.controller.state import TrainState
from rubric_rl.learner.pairs import PairBatch, RewardUpdate, TokenPair
from rubric_rl.types import TrainBatch

from ..controller.fakes import Events, FakeLearner, FakeSink, Killed


def config(folder: Path, **run: object) -> Config:
    values = {"dir": folder, "epochs": 2, "eval_every_steps": 2, "checkpoint_every_steps": 2} | run
    return compose([f"run.{key}={value}" for key, value in values.items()])


@dataclass
class FakeTask:
    """Learns from the sum of its examples' numbers; dies in a step if told to."""

    learner: FakeLearner
    num_train: int = 7
    per_step: int = 3
    data_hash: str = "d"
    dies_at: int | None = None
    seen: list[tuple[int, list[int]]] = field(default_factory=list)

    async def update(self, step: int, indices: Sequence[int]) -> dict[str, float]:
        if step == self.dies_at:
            raise Killed
        self.seen.append((step, list(indices)))
        samples = tuple(example([1], [index + 1]) for index in indices)
        update = await self.learner.update(TrainBatch(step=step, samples=samples, temperature=1.0))
        return {"sft/loss": update.loss}

    async def evaluate(self) -> dict[str, float]:
        return {"sft/eval_loss": self.learner.weights}


def run(task: FakeTask, settings: Config, folder: Path, state: TrainState) -> list:
    """The records that were logged."""
    events = Events()
    sink = FakeSink(events)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    supervised = SupervisedRun(
        config=settings,
        task=task,
        learner=task.learner,
        folder=RunFolder(root=folder),
        sinks=[sink],
        stop=asyncio.Event(),
    )
    asyncio.run(supervised.run(state))
    return sink.records


def test_every_epoch_has_every_example_once_in_an_order_of_its_own(tmp_path: Path):
    settings = config(tmp_path)
    steps = [indices_of(settings, step, 7, 3) for step in range(total_steps(settings, 7, 3))]
    assert [len(indices) for indices in steps] == [3, 3, 1] * 2
    epochs = [[i for own in part for i in own] for part in (steps[:3], steps[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(7))
    assert epochs[0] != epochs[1]
    assert total_steps(config(tmp_path, max_steps=4), 7, 3) == 4


def test_evaluations_checkpoints_and_the_export_come_when_they_should(tmp_path: Path):
    task = FakeTask(FakeLearner(Events()))
    records = run(task, config(tmp_path, keep_checkpoints=9), tmp_path, first_state("d"))
    assert [record.step for record in records] == list(range(7))
    assert [r.step for r in records if "sft/eval_loss" in r.metrics] == [0, 2, 4, 6]
    found = [checkpoint.step for checkpoint in RunFolder(root=tmp_path).all_checkpoints()]
    assert found == [2, 4, 6]
    assert json.loads((tmp_path / "model" / "weights.json").read_text()) == task.learner.weights


def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(tmp_path: Path):
    whole = FakeTask(FakeLearner(Events()))
    run(whole, config(tmp_path / "whole"), tmp_path / "whole", first_state("d"))

    cut, folder = FakeTask(FakeLearner(Events()), dies_at=3), tmp_path / "cut"
    with pytest.raises(Killed):
        run(cut, config(folder), folder, first_state("d"))
    newest = RunFolder(root=folder).all_checkpoints()[-1]
    state, _ = checkpoints.read(newest)
    assert (state.step, state.data_hash) == (2, "d")
    again = FakeTask(FakeLearner(Events()))
    asyncio.run(again.learner.load(newest.path / checkpoints.LEARNER_DIR))
    run(again, config(folder), folder, state)
    assert cut.seen[:2] + again.seen == whole.seen
    assert again.learner.weights == whole.learner.weights


def test_held_out_loss_is_the_mean_over_tokens_not_over_answers():
    class Half:
        async def log_probs(self, batch: TrainBatch) -> list[list[float]]:
            return [[-1.0] * len(sample.completion_token_ids) for sample in batch.samples[:1]] + [
                [-2.0] * len(sample.completion_token_ids) for sample in batch.samples[1:]
            ]

    examples = Examples(train=(), held_out=(example([1], [2]), example([1], [2, 3, 4])))
    task = SftTask(learner=Half(), examples=examples, per_step=1)  # type: ignore[arg-type]
    assert asyncio.run(task.evaluate()) == {"sft/eval_loss": pytest.approx(7 / 4)}


def test_held_out_pairs_by_hand():
    class Given:
        async def margins(self, pairs: tuple[TokenPair, ...]) -> list[float]:
            return [2.0, -1.0, 0.0][: len(pairs)]

        async def update(self, batch: PairBatch) -> RewardUpdate:
            raise NotImplementedError

    pair = TokenPair(chosen=(1,), rejected=(2,))
    task = RewardTask(learner=Given(), pairs=TokenPairs(train=(), held_out=(pair,) * 3), per_step=1)
    losses = [math.log1p(math.exp(-2)), math.log1p(math.e), math.log(2)]
    assert asyncio.run(task.evaluate()) == {
        "rm/eval_loss": pytest.approx(sum(losses) / 3),
        "rm/eval_accuracy": pytest.approx(0.5),
        "rm/eval_margin": pytest.approx(1 / 3),
    }
