"""Loading the policy, what of it decays, and the model directory that is written of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rubric_rl.config.schema import LearnerConfig, ModelConfig
from rubric_rl.data.tokenizing import load_tokenizer
from rubric_rl.learner.models import (
    load_causal_lm,
    parameter_groups,
    save_model_directory,
    torch_device,
)
from rubric_rl.types import Message, PromptRecord

from ...tiny_llama import tiny_llama, tiny_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    tiny_llama(seed=3).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def load(directory: Path) -> tuple[PreTrainedModel, ModelConfig]:
    model = ModelConfig(name_or_path=str(directory))
    return load_causal_lm(str(directory), model, LearnerConfig(), CPU), model


# ----------------------------------------------------------------------------
# The exported directory


def export(source: Path, directory: Path) -> PreTrainedModel:
    policy, model = load(source)
    state = {name: weight.detach() + 1 for name, weight in policy.named_parameters()}
    save_model_directory(policy, state, directory, source=str(source), model=model)
    return policy


def test_an_exported_directory_is_taken_as_a_model(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "export")
    record = PromptRecord(
        prompt_id="p",
        messages=(Message(role="user", content="why?"),),
        domain="any",
        source="row 1",
        row_hash="0",
    )
    found, expected = (
        load_tokenizer(str(path), ModelConfig(name_or_path=str(path)))
        for path in (tmp_path / "export", source)
    )
    assert found.stop_token_ids == expected.stop_token_ids == (2,)
    assert found.tokenize(record) == expected.tokenize(record)
    # "user:why?", the end of the turn, "assistant:"
    assert len(found.tokenize(record)) == 9 + 1 + 10


def test_an_exported_directory_holds_the_given_weights(source: Path, tmp_path: Path) -> None:
    policy = export(source, tmp_path / "export")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32)
    for name, weight in exported.named_parameters():
        assert torch.equal(weight, policy.get_parameter(name) + 1), name


@pytest.mark.parametrize("use_cache", [True, False])
def test_an_exported_config_has_the_cache_setting_of_its_source(
    source: Path, tmp_path: Path, use_cache: bool
) -> None:
    config = AutoConfig.from_pretrained(source)
    config.use_cache = use_cache
    config.save_pretrained(source)
    policy = export(source, tmp_path / "export")
    assert AutoConfig.from_pretrained(tmp_path / "export").use_cache is use_cache
    # The learner goes on without one.
    assert policy.config.use_cache is False


# ----------------------------------------------------------------------------
# Weight decay and device


class Block(nn.Module):
    """A matrix, its bias, a norm and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    module = Block()
    optimizer = torch.optim.AdamW(parameter_groups(module, 0.5), lr=0.1)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in module.named_parameters():
        # A zero gradient leaves the decay: 1 - lr * weight_decay = 0.95.
        factor = 0.95 if name in ("embed.weight", "linear.weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_every_parameter_is_in_one_group(weight_decay: float) -> None:
    module = Block()
    grouped = [p for group in parameter_groups(module, weight_decay) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in module.parameters()}
    assert len(grouped) == 5


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), 0.1)) == 1


def test_the_device_is_the_one_asked_for_whatever_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("gpu") == torch.device("cuda", 0)
