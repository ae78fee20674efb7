"""Held-out evaluation, against numbers worked out by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rubric_rl.controller.evaluation import Evaluation, evaluate, half_width
from rubric_rl.types import Criterion, FailureCause, Sample, VerdictValue

from .fakes import FakeJudges, World, make_world


class FixedJudges(FakeJudges):
    """MET for every criterion of the samples in `good`."""

    good: frozenset[tuple[str, int]] = frozenset()

    def _value(self, sample: Sample, criterion: Criterion) -> VerdictValue | FailureCause:
        if self.fails(sample):
            return FailureCause.MISSING
        met = (sample.prompt_id, sample.sample_index) in self.good
        return VerdictValue.MET if met else VerdictValue.UNMET


def make(tmp_path: Path, *good: tuple[str, int]) -> World:
    world = make_world(tmp_path, num_eval=3)
    judges = FixedJudges(world.events)
    judges.good = frozenset(good)
    world.judges = judges
    return world


def run(world: World, step: int = 4) -> Evaluation:
    world.rollouts.policy_version = step
    return asyncio.run(
        evaluate(world.config, world.eval_prompts, world.rubrics, world.streamer(), step=step)
    )


def test_the_reward_is_the_mean_over_prompts_of_their_means(tmp_path: Path) -> None:
    evaluation = run(make(tmp_path, ("e0", 0), ("e0", 1), ("e1", 0)))
    # Prompt means 1, 0.5 and 0; std (n - 1) 0.5.
    assert evaluation.reward_mean == pytest.approx(0.5)
    assert evaluation.reward_ci95 == pytest.approx(1.96 * 0.5 / 3**0.5)
    assert evaluation.coverage_mean == 1
    assert evaluation.unscored_frac == 0


def test_an_unscored_sample_does_not_count_against_its_prompt(tmp_path: Path) -> None:
    world = make(tmp_path, ("e0", 0), ("e1", 0), ("e1", 1))
    world.judges.fails = lambda s: (s.prompt_id, s.sample_index) == ("e0", 1)
    evaluation = run(world)
    assert evaluation.reward_mean == pytest.approx(2 / 3)  # means 1, 1 and 0
    assert evaluation.unscored_frac == pytest.approx(1 / 6)
    assert evaluation.coverage_mean == pytest.approx(5 / 6)


def test_a_prompt_without_a_scored_sample_leaves_the_mean(tmp_path: Path) -> None:
    world = make(tmp_path, ("e0", 0), ("e0", 1))
    world.judges.fails = lambda s: s.prompt_id == "e2"
    assert run(world).reward_mean == pytest.approx(0.5)


def test_without_any_scored_sample_there_is_no_reward(tmp_path: Path) -> None:
    world = make(tmp_path)
    world.judges.fails = lambda _: True
    evaluation = run(world)
    assert (evaluation.reward_mean, evaluation.reward_ci95) == (None, None)
    assert set(evaluation.metrics) == {"eval/coverage_mean", "eval/unscored_frac", "time/eval_s"}


def test_rows_are_held_out_rows_without_advantages_in_the_order_of_prompts(
    tmp_path: Path,
) -> None:
    rows = run(make(tmp_path)).rows
    assert [(r.prompt_id, r.sample_index) for r in rows] == [
        *[("e0", 0), ("e0", 1), ("e1", 0), ("e1", 1), ("e2", 0), ("e2", 1)]
    ]
    assert {(r.phase, r.step, r.policy_version, r.advantage) for r in rows} == {
        ("eval", 4, 4, None)
    }


def test_its_criteria_and_its_cost_are_told(tmp_path: Path) -> None:
    world = make(tmp_path, ("e0", 0), ("e1", 0), ("e1", 1))
    evaluation = run(world)
    assert evaluation.cost_usd == 6 * 0.25
    assert [(c.prompt_id, c.cid) for c in evaluation.criteria] == [
        (f"e{prompt}", f"c{criterion}") for prompt in range(3) for criterion in range(4)
    ]
    assert [c.pass_rate for c in evaluation.criteria[::4]] == [0.5, 1, 0]
    assert {(c.phase, c.step) for c in evaluation.criteria} == {("eval", 4)}


def test_a_held_out_sample_of_another_version_is_a_bug(tmp_path: Path) -> None:
    world = make(tmp_path)
    world.rollouts.version_error = -1
    with pytest.raises(AssertionError, match="of policy version 3"):
        run(world)


def test_one_prompt_has_no_interval() -> None:
    assert half_width([0.5]) is None
    assert half_width([0.5, 0.5]) == 0
