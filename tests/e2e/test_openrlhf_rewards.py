"""OpenRLHF's own executor gets rubric rewards: from the server, and from the reward function."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openrlhf.datasets.prompts_dataset import preprocess_data
from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rubric_rl.data.export import openrlhf_row
from rubric_rl.integrations import openrlhf
from rubric_rl.integrations.server import ServerLimits

from ..unit.integrations.judges import PROMPTS, UNSCORED, serving_rewards, write_prompts


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class _Engine:
    """Generates what a test says, and ends the turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        self._output = SimpleNamespace(
            token_ids=[*ids, tokenizer.eos_token_id],
            text=text,
            finish_reason="stop",
            logprobs=None,
        )

    async def generate(self, *_: object, **__: object) -> object:
        return SimpleNamespace(outputs=[self._output])


def executed(tokenizer: PreTrainedTokenizerBase, remote_url: str, answer: str) -> dict[str, Any]:
    """One rollout of the prompt p1, whose row is as `rubrics export` writes it."""
    row = json.loads(json.dumps(openrlhf_row(PROMPTS["p1"])))
    prompt, label = preprocess_data(
        row,
        input_key="prompt",
        label_key="label",
        apply_chat_template=tokenizer.apply_chat_template,
    )
    return asyncio.run(
        SingleTurnAgentExecutor(remote_url).execute(
            prompt=prompt,
            label=label,
            sampling_params=SimpleNamespace(max_tokens=64, logprobs=None),
            max_length=512,
            hf_tokenizer=tokenizer,
            llm_engine=_Engine(tokenizer, answer),
        )
    )


def test_the_executor_gets_the_servers_rewards(tokenizer: PreTrainedTokenizerBase) -> None:
    with serving_rewards() as url:
        output = executed(tokenizer, f"{url}/get_reward", "A is enough.")
    # Of criteria of weight 3 and 1, the first is met.
    assert (output["reward"], output["scores"]) == ([0.75], [0.75])
    assert output["extra_logs"] == {"rubric_coverage": [1.0], "rubric_unscored": [0.0]}


def test_a_missing_reward_is_nan_which_dynamic_filtering_drops(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with serving_rewards(limits=ServerLimits(unscored="nan")) as url:
        output = executed(tokenizer, f"{url}/get_reward", UNSCORED)
    assert math.isnan(output["reward"][0])
    # The group's mean, and the test that keeps a group (`SamplesGenerator._generate_vllm`).
    assert not (0.0 < (0.5 + output["scores"][0]) / 2 < 1.0)


def test_the_executor_gets_the_reward_functions_rewards(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rubrics = write_prompts(tmp_path / "prompts.jsonl")
    monkeypatch.setenv("RUBRIC_RL_RUBRICS", str(rubrics))
    monkeypatch.setenv("RUBRIC_RL_JUDGE", "judge=rules")
    assert executed(tokenizer, openrlhf.__file__, "B alone.")["reward"] == [0.25]


def test_the_reward_function_asks_a_server_with_its_key(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_rewards(api_key="s3cret") as url:
        monkeypatch.setenv("RUBRIC_RL_URL", url)
        monkeypatch.setenv("RUBRIC_RL_API_KEY", "s3cret")
        assert executed(tokenizer, openrlhf.__file__, "A and B")["reward"] == [1.0]
        # Logged by OpenRLHF; there is no reward, rather than a wrong one.
        assert executed(tokenizer, openrlhf.__file__, UNSCORED)["reward"] is None
