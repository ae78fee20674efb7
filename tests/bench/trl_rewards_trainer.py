"""Two steps of GRPOTrainer on rubric rewards; the half of `trl_rewards.py` in TRL's environment.

PYTHONPATH=. ENVIRONMENT/bin/python tests/bench/trl_rewards_trainer.py DATASET (--url|--rubrics) X
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from rubric_rl.integrations.trl import rubric_reward

_STEPS, _SAMPLES, _TOKENS = 2, 4, 16
Reward = Callable[..., list[float | None]]


def tiny() -> ModuleType:
    """`tests/tiny_llama.py`, which is in no package."""
    path = Path(__file__).parents[1] / "tiny_llama.py"
    spec = importlib.util.spec_from_file_location("tiny_llama", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokenizer() -> Any:
    made = tiny().tiny_tokenizer()
    made.pad_token = made.eos_token
    return made


def trainer_of(dataset: str, reward: Reward, directory: str) -> GRPOTrainer:
    config = GRPOConfig(
        output_dir=directory,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=2 * _SAMPLES,
        num_generations=_SAMPLES,
        max_completion_length=_TOKENS,
        max_steps=_STEPS,
        learning_rate=1e-3,
        seed=0,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    return GRPOTrainer(
        model=tiny().tiny_llama(),
        reward_funcs=reward,
        args=config,
        train_dataset=load_dataset("json", data_files=dataset, split="train"),
        processing_class=tokenizer(),
    )


def train(dataset: str, reward: Reward) -> tuple[list[dict[str, float]], list[list[float | None]]]:
    """What the trainer logged at each step, and the rewards that it was given."""
    given: list[list[float | None]] = []

    def rubric(**arguments: Any) -> list[float | None]:
        given.append(reward(**arguments))
        return given[-1]

    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_of(dataset, rubric, directory)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.train()
        after = list(trainer.model.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    return logged, given


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--url")
    parser.add_argument("--rubrics")
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge = ["judge=rules"] if args.rubrics else None
    reward = rubric_reward(url=args.url, rubrics=args.rubrics, judge=judge)
    logged, given = train(args.dataset, reward)
    assert len(logged) == len(given) == _STEPS
    for entry, rewards in zip(logged, given, strict=True):
        assert len(set(rewards)) > 1, "the rewards tell nothing apart"
        mean = sum(value for value in rewards if value is not None) / len(rewards)
        assert math.isclose(entry["rewards/rubric/mean"], mean, abs_tol=1e-6)
        assert math.isclose(entry["reward"], mean, abs_tol=1e-6)
        print(f"rewards {[round(v or 0, 3) for v in rewards]}, logged mean {entry['reward']:.4f}")
    where = f"server {args.url}" if args.url else "this process"
    print(f"two steps of GRPOTrainer with rewards from {where}: the weights changed")
    _check_none(args.dataset, reward)


def _check_none(dataset: str, reward: Reward) -> None:
    """A None, which is what an answer without a reward gets, is in none of the trainer's means."""

    def with_none(**arguments: Any) -> list[float | None]:
        return [None, *reward(**arguments)[1:]]

    logged, given = train(dataset, with_none)
    for entry, rewards in zip(logged, given, strict=True):
        scored = [value for value in rewards if value is not None]
        assert len(scored) == len(rewards) - 1
        assert math.isclose(entry["reward"], sum(scored) / len(scored), abs_tol=1e-6)
    print(f"one None in {len(given[0])} rewards is left out: mean {logged[0]['reward']:.4f}")


if __name__ == "__main__":
    main()
