"""One policy, held by a DeepSpeed learner and by a vLLM engine: real parts over real Ray.

All tests share one learner rank and one engine, in the order of the file: each
starts from where the one before left the weights.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.runtime.cluster import ray_cluster, reserve
from rubric_rl.runtime.judges import JudgeStart
from rubric_rl.runtime.placement import plan_placement
from rubric_rl.runtime.preflight import check_inputs
from rubric_rl.runtime.waiting import Waiting
from rubric_rl.runtime.workers import Pools, WorkerSettings, start_workers
from rubric_rl.types import Prompt, RolloutRequest, Sample, TrainBatch, TrainSample

# Mean absolute difference of float32 log-probs, nats. Both sides round differently.
MAX_MEAN_GAP = 1e-3


class Policy:
    """The running workers, driven from synchronous tests."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.loop = asyncio.new_event_loop()
        inputs = check_inputs(config)
        self.prompts: tuple[Prompt, ...] = inputs.train_prompts[:4]
        self.pools = self.run(
            self._start(config, inputs.model_path, inputs.stop_token_ids, run_dir)
        )
        self.version = 0

    async def _start(
        self, config: Config, model_path: str, stop_token_ids: tuple[int, ...], run_dir: Path
    ) -> Pools:
        waiting = Waiting(show=lambda _text: None, log_dir=str(run_dir))
        self.reserved = await reserve(plan_placement(config), waiting, 60)
        settings = WorkerSettings(
            model_path=model_path,
            stop_token_ids=stop_token_ids,
            num_steps=10,
            judge=JudgeStart(
                run_id="test", identity=None, templates=JudgeTemplates.load(), cache_dir=None
            ),
        )
        return await start_workers(config, settings, self.reserved, waiting)

    def run(self, coroutine):
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 300))

    def generate(self, *, temperature: float = 1.0, samples: int = 2) -> list[Sample]:
        requests = [
            RolloutRequest(
                prompt_id=prompt.prompt_id,
                sample_index=index,
                token_ids=prompt.token_ids,
                seed=1000 + index,
                max_new_tokens=24,
                temperature=temperature,
            )
            for prompt in self.prompts
            for index in range(samples)
        ]

        async def collect() -> list[Sample]:
            return [sample async for sample in self.pools.rollouts.generate(requests)]

        return sorted(self.run(collect()), key=lambda s: (s.prompt_id, s.sample_index))

    def mean_gap(self, samples: list[Sample], temperature: float = 1.0) -> float:
        """Between the engine's log-probs of these samples and the learner's."""
        batch = TrainBatch(
            step=0, samples=tuple(_train_sample(s, 0.0) for s in samples), temperature=temperature
        )
        rank = next(iter(self.pools.learner._ranks.values()))
        learner_T = ray.get(rank.log_probs.remote(batch), timeout=300)
        gaps = [
            abs(a - b)
            for sample, log_probs in zip(samples, learner_T, strict=True)
            for a, b in zip(sample.log_probs, log_probs, strict=True)
        ]
        return statistics.fmean(gaps)

    def update(self, samples: list[Sample], sign: float) -> float:
        """One optimizer step that favours even sample indices; the loss."""
        batch = TrainBatch(
            step=self.version + 1,
            samples=tuple(_train_sample(s, sign * (1 - 2 * (s.sample_index % 2))) for s in samples),
            temperature=1.0,
        )
        result = self.run(self.pools.learner.update(batch))
        self.version = result.policy_version
        return result.loss

    def publish(self) -> tuple[int, ...]:
        return self.run(self.pools.weight_sync.publish(self.version)).versions


def _train_sample(sample: Sample, advantage: float) -> TrainSample:
    return TrainSample(
        prompt_token_ids=sample.prompt_token_ids,
        completion_token_ids=sample.completion_token_ids,
        rollout_log_probs=sample.log_probs,
        loss_mask=sample.loss_mask,
        advantage=advantage,
    )


@pytest.fixture(scope="module")
def policy(small_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    run_dir = tmp_path_factory.mktemp("policy")
    config = compose(
        [
            "experiment=quickstart_cpu",
            f"run.dir={run_dir}",
            f"model.name_or_path={small_model_dir}",
            "rollout.max_new_tokens=24",
            "learner.learning_rate=2e-4",
            "cluster.address=local",
        ]
    )
    with ray_cluster(config.cluster):
        policy = Policy(config, run_dir)
        yield policy
        policy.reserved.release()


def test_engine_and_learner_agree_on_the_log_probs_of_a_fresh_policy(policy: Policy):
    assert policy.publish() == (0,)
    samples = policy.generate()
    assert policy.mean_gap(samples) < MAX_MEAN_GAP
    assert {s.policy_version for s in samples} == {0}


def test_log_probs_are_after_temperature_on_both_sides(policy: Policy):
    samples = policy.generate(temperature=0.6)
    assert policy.mean_gap(samples, temperature=0.6) < MAX_MEAN_GAP
    assert policy.mean_gap(samples, temperature=1.0) > 10 * MAX_MEAN_GAP


def test_equal_seeds_give_equal_samples_and_other_seeds_others(policy: Policy):
    first, second = policy.generate(), policy.generate()
    assert first == second
    by_index = {
        s.sample_index: s.completion_token_ids for s in first if s.prompt_id == first[0].prompt_id
    }
    assert by_index[0] != by_index[1]


def test_samples_carry_what_the_learner_needs(policy: Policy):
    for sample in policy.generate():
        length = len(sample.completion_token_ids)
        assert length == len(sample.log_probs) == len(sample.loss_mask)
        assert 1 <= length <= 24
        assert (sample.finish_reason == "length") == (length == 24 and sample.text != "")
        assert all(log_prob <= 0 for log_prob in sample.log_probs)


@pytest.mark.parametrize("round_", [1, 2, 3])
def test_a_sync_changes_what_the_engine_says_and_keeps_both_sides_equal(
    policy: Policy, round_: int
):
    before = policy.generate()
    policy.update(before, sign=1.0)
    assert policy.version == round_
    # Until the sync the engine serves the old weights under the old version.
    stale = policy.generate()
    assert [replace(s, seed=0) for s in stale] == [replace(s, seed=0) for s in before]
    assert policy.mean_gap(stale) > MAX_MEAN_GAP

    assert policy.publish() == (round_,)
    after = policy.generate()
    assert {s.policy_version for s in after} == {round_}
    assert [s.log_probs for s in after] != [s.log_probs for s in before]
    assert policy.mean_gap(after) < MAX_MEAN_GAP
