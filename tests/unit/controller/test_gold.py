"""Gold during training: its values, that nothing is trained on it, and the stop at its decline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.controller import checkpoints
from rubric_rl.controller.evaluation import evaluate
from rubric_rl.controller.gold_account import describe_gold
from rubric_rl.controller.measuring import GoldParts, Measure
from rubric_rl.controller.run_identity import identity
from rubric_rl.controller.schedule import finished
from rubric_rl.errors import BudgetExhaustedError
from rubric_rl.refinement.records import Proposal, RefinementRequest
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import (
    Criterion,
    FailureCause,
    Judgement,
    JudgeRequest,
    Rubric,
    VerdictValue,
)

from .fakes import (
    FakeProposer,
    Killed,
    World,
    make_config,
    make_judgement,
    make_world,
    without_times,
)

GOLD_TEXT = "Is what we really want"
# Of each policy version; rises, and falls from step 3 on.
BY_VERSION = {0: 0, 1: 1, 2: 1, 3: 0, 4: 0, 5: 0, 6: 0}
STOPS: dict[str, Any] = {
    "num_train": 12,
    "run__eval_every_steps": 1,
    "run__keep_checkpoints": 1,
    "run__best_metric": "gold",
    "gold__rubrics": "gold.jsonl",
    "gold__stop_after_decline": True,
}


def gold_rubrics(world: World) -> RubricSet:
    criterion = Criterion(cid="g", text=GOLD_TEXT, weight=1.0)
    rubrics = (
        Rubric(prompt_id=p.prompt_id, version=0, criteria=(criterion,)) for p in world.eval_prompts
    )
    return RubricSet(version=0, rubrics=tuple(rubrics))


class GoldJudges:
    """MET by what `met` says of (prompt, sample index) or of the policy's version."""

    def __init__(
        self, met: Mapping[tuple[str, int], bool] | None = None, *, price_usd: float = 0.0
    ) -> None:
        self.met = met
        self.price_usd = price_usd
        self.fails: set[tuple[str, int]] = set()
        self.has_money = True

    async def judge(self, request: JudgeRequest) -> Judgement:
        await asyncio.sleep(0)
        sample = request.sample
        key = (sample.prompt_id, sample.sample_index)
        met = self.met[key] if self.met else BY_VERSION[sample.policy_version]
        value: VerdictValue | FailureCause = VerdictValue.MET if met else VerdictValue.UNMET
        if key in self.fails:
            value = FailureCause.TIMEOUT
        if not self.has_money:
            value = FailureCause.BUDGET
        judgement = make_judgement(request.rubric, [value] * len(request.rubric.criteria))
        return replace(judgement, usage=replace(judgement.usage, cost_usd=self.price_usd))


def with_gold(world: World, judges: GoldJudges | None = None, **parts: Any) -> World:
    world.gold = GoldParts(rubrics=gold_rubrics(world), judges=judges or GoldJudges(), **parts)
    return world


def measured(world: World, judges: GoldJudges):
    world.rollouts.policy_version = 4
    gold = Measure(rubrics=gold_rubrics(world), judges=judges, is_own_judge=True)
    streamer = world.streamer()
    return asyncio.run(
        evaluate(world.config, world.eval_prompts, world.rubrics, streamer, step=4, gold=gold)
    )


def test_gold_is_the_mean_over_prompts_of_what_its_judge_says(tmp_path: Path) -> None:
    judges = GoldJudges({("e0", 0): True, ("e0", 1): True, ("e1", 0): True, ("e1", 1): False})
    evaluation = measured(make_world(tmp_path), judges)
    # Means 1 and 0.5: standard error 0.3536 / sqrt(2) = 0.25.
    assert evaluation.metrics["eval/gold_mean"] == pytest.approx(0.75)
    assert evaluation.metrics["eval/gold_ci95"] == pytest.approx(1.96 * 0.25)
    assert evaluation.metrics["eval/gold_coverage_mean"] == 1
    assert [row.gold_reward for row in evaluation.rows] == [1, 1, 1, 0]
    assert evaluation.rows[0].reward != evaluation.rows[0].gold_reward


def test_what_gold_can_not_judge_is_no_zero(tmp_path: Path) -> None:
    judges = GoldJudges(dict.fromkeys([("e0", 0), ("e0", 1), ("e1", 0), ("e1", 1)], True))
    judges.fails = {("e0", 0), ("e1", 0), ("e1", 1)}
    evaluation = measured(make_world(tmp_path), judges)
    assert evaluation.metrics["eval/gold_mean"] == 1
    assert evaluation.metrics["eval/gold_coverage_mean"] == pytest.approx(0.25)
    assert "eval/gold_ci95" not in evaluation.metrics  # one prompt is left
    judges.fails |= {("e0", 1)}
    evaluation = measured(make_world(tmp_path), judges)
    assert evaluation.gold is None and "eval/gold_mean" not in evaluation.metrics
    assert evaluation.metrics["eval/gold_coverage_mean"] == 0


def test_without_a_judge_of_its_own_the_run_s_judges_give_the_verdicts(tmp_path: Path) -> None:
    world = make_world(tmp_path, run__max_steps=2, gold__rubrics="gold.jsonl")
    world.gold = GoldParts(rubrics=gold_rubrics(world))
    state = world.run()
    rows = [row for record in world.sink.records for row in record.rows if row.phase == "eval"]
    assert {row.gold_reward for row in rows} == {0.0, 1.0}
    assert state.gold is not None and state.gold.num_evaluations == 2
    assert state.gold_usd == 0  # it is in the judges' account


class WatchedProposer(FakeProposer):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    async def refine(self, request: RefinementRequest) -> Proposal:
        self.seen.append(repr(request))
        return await super().refine(request)


def refined_run(folder: Path, gold: bool) -> tuple[World, WatchedProposer]:
    settings = {"gold__rubrics": "gold.jsonl"} if gold else {}
    world = make_world(
        folder,
        num_train=4,
        run__epochs=2,
        refinement__enabled=True,
        refinement__gate={"enabled": False},
        refinement__only_tied=False,
        refinement__rounds=1,
        **settings,
    )
    proposer = WatchedProposer()
    proposer.events = world.events
    world.proposer = proposer
    if gold:
        with_gold(world)
    world.run()
    return world, proposer


def test_gold_is_neither_trained_on_nor_shown_to_the_proposer(tmp_path: Path) -> None:
    plain, shown = refined_run(tmp_path / "plain", gold=False)
    golden, shown_beside_gold = refined_run(tmp_path / "gold", gold=True)
    assert golden.learner.batches == plain.learner.batches
    assert shown_beside_gold.seen == shown.seen and shown.seen
    assert not any(GOLD_TEXT in text for text in shown_beside_gold.seen)
    logged = golden.sink.records[0].metrics
    assert "eval/gold_mean" in logged


# ----------------------------------------------------------------------------
# The stop


def test_the_run_ends_when_the_decline_is_confirmed_and_keeps_the_best(tmp_path: Path) -> None:
    world = with_gold(make_world(tmp_path, **STOPS))
    state = world.run()
    # Below the peak of step 1 at steps 3 and 4.
    assert state.step == 4 and finished(world.config, state)
    assert world.checkpoint_steps() == [1, 4]
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert (best["step"], best["metric"], best["value"]) == (1, "eval/gold_mean", 1.0)
    text = describe_gold(world.config, state)
    assert text is not None
    assert "best at step 1 with 1.000, and is 0.000 at step 4. It declines since step 3" in text
    assert "ended there by gold.stop_after_decline" in text


def test_an_export_follows_the_stop(tmp_path: Path) -> None:
    world = with_gold(make_world(tmp_path, run__export_model=True, **STOPS))
    world.run()
    assert world.events.kinds("export") == ["export"]


def test_without_the_setting_it_goes_on_and_says_so(tmp_path: Path) -> None:
    world = with_gold(make_world(tmp_path, **STOPS | {"gold__stop_after_decline": False}))
    state = world.run()
    assert state.step == 6 and state.gold is not None and state.gold.onset_step == 3
    text = describe_gold(world.config, state)
    assert text is not None and text.endswith("It declines since step 3.")


def test_a_run_that_ended_by_gold_can_be_gone_on_with(tmp_path: Path) -> None:
    with_gold(make_world(tmp_path, **STOPS)).run()
    more = STOPS | {"gold__stop_after_decline": False}
    assert with_gold(make_world(tmp_path, **more)).run().step == 6
    assert identity(make_config(tmp_path, gold__rubrics="a")) != identity(
        make_config(tmp_path, gold__rubrics="b")
    )


def test_a_killed_run_stops_where_the_undisturbed_one_does(tmp_path: Path) -> None:
    undisturbed = with_gold(make_world(tmp_path / "whole", **STOPS))
    want = undisturbed.run()
    metrics = {r.step: without_times(r.metrics) for r in undisturbed.sink.records}
    for kill_at in range(20, len(undisturbed.events), 37):
        folder = tmp_path / str(kill_at)
        killed = with_gold(make_world(folder, kill_at=kill_at, **STOPS))
        with pytest.raises(Killed):
            killed.run()
        resumed = with_gold(make_world(folder, **STOPS))
        assert resumed.run() == want
        for record in resumed.sink.records:
            assert without_times(record.metrics) == metrics[record.step]


def test_the_watch_is_in_the_checkpoint(tmp_path: Path) -> None:
    world = with_gold(make_world(tmp_path, **STOPS))
    want = world.run()
    state, _ = checkpoints.read(world.run_folder.all_checkpoints()[-1])
    assert state == want and state.gold is not None
    assert dict(state.gold.peak.by_prompt) == {"e0": 1.0, "e1": 1.0}


# ----------------------------------------------------------------------------
# Money


def test_a_gold_judge_of_its_own_counts_against_the_budget(tmp_path: Path) -> None:
    settings = {"gold__rubrics": "gold.jsonl", "judge__budget": {"max_cost_usd": 12.0}}
    judges = GoldJudges(price_usd=1.0)
    world = with_gold(make_world(tmp_path, **settings), judges)
    # 4 held-out samples: 1 + 4 USD for the evaluation of step 0; a step is 2 USD.
    with pytest.raises(BudgetExhaustedError, match=r"and 4\.0000 USD on gold"):
        world.run()
    shared = with_gold(make_world(tmp_path / "b", **settings), judges, shares_account=True)
    assert shared.run().gold_usd == 0


def test_a_gold_judge_without_money_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    settings = {"gold__rubrics": "gold.jsonl", "judge__budget": {"max_cost_usd": 100.0}}
    judges = GoldJudges()
    judges.has_money = False
    world = with_gold(make_world(tmp_path, **settings), judges)
    with pytest.raises(BudgetExhaustedError, match="would have cost too much"):
        world.run()
    assert world.checkpoint_steps() == [0]
