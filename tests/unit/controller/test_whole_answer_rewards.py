"""The loop on a reward model: its numbers are the rewards, and its failures are unscored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rubric_rl.config.judge import RewardModelConfig
from rubric_rl.data.tokenizing import PolicyTokenizer
from rubric_rl.judging.reward_model import RewardModelJudge
from rubric_rl.rubrics.whole_answer import whole_answer_rubrics
from rubric_rl.types import Judgement, JudgeRequest

from .fakes import Events, FakeJudges, make_world

TOKENIZER = PolicyTokenizer(
    tokenize=lambda record: [1],
    tokenize_answer=lambda text: [*text.encode(), 0],
    stop_token_ids=(0,),
)


def negative_sums(sequences: Sequence[Sequence[int]]) -> list[float]:
    """Rewards below 0, which a share of criteria never is; none for every fifth answer."""
    sums = [sum(sequence) for sequence in sequences]
    return [float("nan") if total % 5 == 0 else -float(total) for total in sums]


class ModelJudges(FakeJudges):
    """The real judge on a model of one line."""

    def __init__(self, events: Events) -> None:
        super().__init__(events)
        config = RewardModelConfig(path="models/rm")
        self.judgements: dict[tuple[str, str], Judgement] = {}
        self._model = RewardModelJudge(config, negative_sums, TOKENIZER, "0123456789abcdef")

    async def judge(self, request: JudgeRequest) -> Judgement:
        return await self._model.judge(request)


def test_the_loop_trains_on_the_numbers_of_a_reward_model(tmp_path: Path):
    world = make_world(tmp_path / "run", rubrics__max_unscored_frac=0.9)
    world.rubrics = world.first_rubrics = whole_answer_rubrics(world.rubrics)
    world.judges = ModelJudges(world.events)
    state = world.run()
    assert state.step == 3
    rows = [row for record in world.sink.records for row in record.rows]
    scored = [row for row in rows if row.reward is not None]
    for row in rows:
        total = 1 + sum(row.completion.encode())
        assert row.reward == (None if total % 5 == 0 else -float(total))
        assert (row.mode, row.judge_id) == ("reward_model", "rm@01234567")
    assert len(rows) > len(scored) > 0
    assert all(row.criteria[0].cause is not None for row in rows if row.reward is None)
    metrics = world.sink.records[-1].metrics
    assert metrics["judge/unknown/reward_model"] > 0 or metrics["judge/unscored_frac"] == 0
    assert "reward/saturated_frac" not in metrics
    assert "criterion/pass_rate_mean" not in metrics
    assert metrics["reward/mean"] < 0
    assert max(abs(r.advantage) for r in scored if r.advantage is not None) > 0
