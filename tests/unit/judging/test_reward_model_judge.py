"""A reward model as the judge: batches, the reward, and failures that are no scores."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rubric_rl.config.judge import RewardModelConfig
from rubric_rl.config.schema import RubricsConfig
from rubric_rl.controller.assembly import judged
from rubric_rl.data.tokenizing import PolicyTokenizer
from rubric_rl.errors import ConfigError
from rubric_rl.judging.reward_model import RewardModelJudge, check_reward_model, fingerprint
from rubric_rl.rubrics.rules import parse_rule
from rubric_rl.rubrics.whole_answer import WHOLE, whole_answer_rubric
from rubric_rl.types import Criterion, FailureCause, JudgedSample, JudgeRequest, VerdictValue

END = 0
TOKENIZER = PolicyTokenizer(
    tokenize=lambda record: [1] * len(record.messages),
    tokenize_answer=lambda text: [*map(ord, text), END],
    stop_token_ids=(END,),
)


class Counting:
    """The reward is the number of the answer's characters; keeps the batches."""

    def __init__(self, fails: str = "", reward: float | None = None) -> None:
        self.batches: list[list[int]] = []
        self.fails = fails
        self.reward = reward

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        self.batches.append([len(sequence) for sequence in sequences])
        if any(ord(self.fails) in sequence for sequence in sequences) if self.fails else False:
            raise RuntimeError("out of memory")
        return [self.reward or float(len(sequence) - 2) for sequence in sequences]


def judge_all(score: Counting, requests: Sequence[JudgeRequest], **settings) -> list[JudgedSample]:
    config = RewardModelConfig(path="models/rm", **settings)

    async def run() -> list[JudgedSample]:
        judge = RewardModelJudge(config, score, TOKENIZER, "0123456789abcdef")
        judgements = await asyncio.gather(*(judge.judge(request) for request in requests))
        return [
            judged(request.sample, judgement, request.rubric, RubricsConfig())
            for request, judgement in zip(requests, judgements, strict=True)
        ]

    return asyncio.run(run())


@pytest.fixture
def answers(judge_request):
    """Requests for the grade of answers."""

    def build(*texts: str) -> list[JudgeRequest]:
        rubric = whole_answer_rubric("p1")
        return [replace(judge_request(answer=text), rubric=rubric) for text in texts]

    return build


def test_the_number_of_the_model_is_the_reward_whatever_its_size(answers):
    found = judge_all(Counting(), answers("abc", "a" * 40))
    assert [sample.score.value for sample in found] == [3.0, 40.0]
    assert [sample.score.coverage for sample in found] == [1.0, 1.0]
    judgement = found[0].judgement
    assert (judgement.judge_id, judgement.mode) == ("rm@01234567", "reward_model")
    assert judgement.verdicts[0].value is VerdictValue.GRADED


def test_negative_rewards_are_rewards(answers):
    assert judge_all(Counting(reward=-2.5), answers("abc"))[0].score.value == -2.5


def test_what_waits_goes_through_the_model_together_as_far_as_it_fits(answers):
    score = Counting()
    texts = ["a" * n for n in (1, 2, 3, 30, 1)]
    found = judge_all(score, answers(*texts), batch_tokens=40)
    assert [sample.score.value for sample in found] == [1, 2, 3, 30, 1]
    # Padded: 3 x 5 tokens, then the long one would make 4 x 32.
    assert score.batches == [[3, 4, 5], [32], [3]]


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_score(answers, reward: float):
    (sample,) = judge_all(Counting(reward=reward), answers("abc"))
    assert sample.score.value is None
    assert sample.judgement.verdicts[0].cause is FailureCause.REWARD_MODEL


def test_a_model_that_fails_leaves_its_batch_unscored_and_the_rest_scored(answers):
    score = Counting(fails="x")
    found = judge_all(score, answers("ab", "x" * 9, "abc"), batch_tokens=12)
    assert [sample.score.value for sample in found] == [2.0, None, 3.0]
    assert "out of memory" in found[1].judgement.verdicts[0].reason


def test_an_answer_that_is_too_long_is_unscored_and_not_run(answers):
    score = Counting()
    found = judge_all(score, answers("abcdef", "ab"), max_tokens=5)
    assert [sample.score.value for sample in found] == [None, 2.0]
    assert "8 tokens, more than judge.reward_model.max_tokens=5" in (
        found[0].judgement.verdicts[0].reason
    )
    assert score.batches == [[4]]
    assert [criterion.cid for criterion in whole_answer_rubric("p").criteria] == [WHOLE]


def test_a_rubric_of_rules_such_as_a_gold_one_is_executed(judge_request):
    rule = parse_rule({"rule": "word_count", "max": 3})
    request = judge_request(
        Criterion(cid="r1", text="Is short.", weight=1, rule=rule), answer="a b"
    )
    score = Counting()
    (sample,) = judge_all(score, [request])
    assert (sample.score.value, sample.judgement.mode, score.batches) == (1.0, "rules", [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (None, "no config.json"),
        ({"architectures": ["LlamaForCausalLM"]}, "holds LlamaForCausalLM"),
        (
            {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}},
            "with 2 outputs",
        ),
    ],
)
def test_a_directory_that_holds_no_reward_model_is_refused(
    tmp_path: Path, fields: dict | None, message: str
):
    if fields is not None:
        (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=message):
        check_reward_model(RewardModelConfig(path=str(tmp_path)))


def test_a_fingerprint_changes_with_any_file(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights").write_bytes(bytes(1 << 17))
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "weights").write_bytes(bytes((1 << 17) - 1) + b"1")
    assert fingerprint(tmp_path) != before
