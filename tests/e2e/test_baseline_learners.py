"""A reward model and SFT on real DeepSpeed engines: they learn, alike on one rank and two."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.config.judge import RewardModelConfig
from rubric_rl.config.schema import ModelConfig
from rubric_rl.data.tokenizing import load_tokenizer
from rubric_rl.judging.reward_model import check_reward_model, load_score

from ..tiny_llama import tiny_llama, tiny_tokenizer
from .test_zero_stages import start, wait_for

WORKER = Path(__file__).with_name("baseline_worker.py")
NUM_STEPS = 12
GOOD, BAD, END = 40, 41, 2
# ZeRO stages and numbers of ranks add the same numbers in another order.
RELATIVE = 2e-3


def make_pairs(seed: int, count: int) -> list[dict[str, list[int]]]:
    """The preferred answer has a token that the other hasn't; all else is noise."""
    rng = random.Random(seed)

    def answer(prompt: list[int], token: int) -> list[int]:
        words = [rng.randrange(42, 97) for _ in range(rng.randrange(2, 8))]
        words.insert(rng.randrange(len(words)), token)
        return [*prompt, *words, END]

    prompts = [[rng.randrange(3, 40) for _ in range(rng.randrange(2, 6))] for _ in range(count)]
    return [{"chosen": answer(p, GOOD), "rejected": answer(p, BAD)} for p in prompts]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What rank 0 found, by number of ranks; and where it wrote."""
    root = tmp_path_factory.mktemp("baselines")
    tiny_llama(seed=5).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    job = {
        "model_path": str(root / "model"),
        "num_steps": NUM_STEPS,
        "learner": {
            "learning_rate": 3e-3,
            "warmup_frac": 0.25,
            "schedule": "cosine",
            "micro_batch_tokens": 60,
        },
        # An odd number: with two ranks one of them runs out.
        "train": make_pairs(0, 15),
        "held_out": make_pairs(1, 9),
        "answers": [(pair["chosen"][:2], pair["chosen"][2:]) for pair in make_pairs(2, 5)],
    }
    processes, logs = [], []
    for num_ranks in (1, 2):
        directory = root / f"ranks{num_ranks}"
        processes += start(directory, job, num_ranks, WORKER)
        logs += [directory / f"rank{rank}.log" for rank in range(num_ranks)]
    wait_for(processes, logs)
    return {
        n: {"directory": root / f"ranks{n}"}
        | json.loads((root / f"ranks{n}" / "rank0.json").read_text())
        for n in (1, 2)
    }


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_reward_model_learns_to_prefer_the_right_side(found, num_ranks: int, stage: int):
    run = found[num_ranks][f"reward{stage}"]
    losses = [update["loss"] for update in run["updates"]]
    assert losses[-1] < 0.2 * losses[0]
    assert run["updates"][-1]["accuracy"] == 1.0
    # Pairs that it never saw, some of which it had the wrong way round at first.
    assert min(run["before"]) < 0
    assert sum(margin > 0 for margin in run["after"]) >= 8
    rates = [update["learning_rate"] for update in run["updates"]]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.1 * max(rates)


def test_one_rank_two_ranks_and_both_stages_take_the_same_steps(found):
    first = found[1]["reward2"]
    for num_ranks, stage in ((1, 3), (2, 2), (2, 3)):
        other = found[num_ranks][f"reward{stage}"]
        for step in range(3):
            for name in ("loss", "accuracy", "margin", "grad_norm"):
                assert other["updates"][step][name] == pytest.approx(
                    first["updates"][step][name], rel=RELATIVE, abs=1e-5
                ), (num_ranks, stage, step, name)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_brings_the_reward_model_back(found, num_ranks: int, stage: int):
    run = found[num_ranks][f"reward{stage}"]
    version, margins = run["loaded"]
    assert version == NUM_STEPS
    assert margins == pytest.approx(run["after"], abs=1e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_export_is_a_judge_that_gives_the_same_rewards(found, stage: int):
    directory = found[1]["directory"] / f"export{stage}"
    config = RewardModelConfig(path=str(directory))
    assert len(check_reward_model(config)) == 16
    score = load_score(config, "cpu")
    pairs = make_pairs(1, 9)
    rewards = score([*(p["chosen"] for p in pairs), *(p["rejected"] for p in pairs)])
    margins = [good - bad for good, bad in zip(rewards[:9], rewards[9:], strict=True)]
    assert margins == pytest.approx(found[1][f"reward{stage}"]["after"], abs=1e-4)
    # Alone, without padding, an answer gets the reward that it gets among others.
    assert score([pairs[0]["chosen"]]) == pytest.approx([rewards[0]], abs=1e-4)
    tokenizer = load_tokenizer(str(directory), ModelConfig(name_or_path=str(directory)))
    assert tokenizer.tokenize_answer("")[-1] == END


def test_fine_tuning_makes_the_answers_likelier_alike_on_one_rank_and_two(found):
    one, two = found[1]["sft"]["losses"], found[2]["sft"]["losses"]
    assert one[-1] < 0.5 * one[0]
    assert two[:3] == pytest.approx(one[:3], rel=RELATIVE)
