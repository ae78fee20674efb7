"""The laboratory's policy is a model directory that the rest of the project takes as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rubric_rl.config.schema import ModelConfig
from rubric_rl.data.tokenizing import load_tokenizer
from rubric_rl.lab.prompts import questions
from rubric_rl.lab.small_policy import MAX_PROMPT_TOKENS, PolicySettings, prepare_policy
from rubric_rl.lab.writers import MAX_TOKENS, corpus
from rubric_rl.types import Message, PromptRecord

SETTINGS = PolicySettings(answers_per_question=4, epochs=2, batch_size=32, threads=1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_policy(tmp_path_factory.mktemp("lab") / "model", SETTINGS)


def record(text: str) -> PromptRecord:
    return PromptRecord(
        prompt_id="p",
        messages=(Message(role="user", content=text),),
        domain="lab",
        source="test",
        row_hash="",
    )


def test_questions_are_known_words_and_short_enough(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    policy = load_tokenizer(str(directory), ModelConfig(name_or_path=str(directory)))
    for question in questions():
        ids = policy.tokenize(record(question.text))
        assert tokenizer.decode(ids) == f"<user> {question.text} <end> <assistant>"
        assert len(ids) <= MAX_PROMPT_TOKENS
    assert policy.stop_token_ids == (tokenizer.eos_token_id,)


def test_answers_survive_a_round_trip_with_their_lines(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for _, answer in corpus(1, 5):
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert len(ids) < MAX_TOKENS
        assert tokenizer.decode(ids) == answer


def test_training_made_its_answers_likelier_than_chance(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    question, answer = corpus(1, 5)[0]
    text = f"<user> {question.text} <end> <assistant> {answer} <end>"
    tokens = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        loss = model(input_ids=tokens, labels=tokens).loss.item()
    assert loss < 0.9 * torch.log(torch.tensor(len(tokenizer))).item()


def test_it_is_made_once_for_equal_settings(directory: Path) -> None:
    weights = directory / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert prepare_policy(directory, SETTINGS) == directory
    assert weights.stat().st_mtime_ns == before
