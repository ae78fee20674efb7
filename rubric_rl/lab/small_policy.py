"""The laboratory's policy: a Llama of half a million parameters, trained here on mixed answers.

Its tokens are whole words, so that a few dozen of them are an answer, and a GRPO step takes
a second on one core. It is a model directory like any other, chat template included.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubric_rl.lab.prompts import Question, questions
from rubric_rl.lab.topics import TOPICS
from rubric_rl.lab.writers import MAX_TOKENS, corpus
from rubric_rl.observability.atomic import write_text_atomic

if TYPE_CHECKING:
    import torch

_UNKNOWN, _PAD, _USER, _ASSISTANT, _END = "<unk>", "<pad>", "<user>", "<assistant>", "<end>"
_SPECIAL = (_UNKNOWN, _PAD, _USER, _ASSISTANT, _END)
_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
_MANIFEST = "lab_model.json"
_IGNORED = -100
MAX_PROMPT_TOKENS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """How the policy is made. Equal settings give an equal model."""

    hidden_size: int = 128
    num_layers: int = 2
    answers_per_question: int = 60
    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 3e-3
    seed: int = 0
    threads: int = 1


def prepare_policy(directory: Path, settings: PolicySettings) -> Path:
    """The model directory, trained first unless it is there with these settings."""
    manifest = directory / _MANIFEST
    wanted = json.dumps(asdict(settings))
    if manifest.is_file() and manifest.read_text(encoding="utf-8") == wanted:
        return directory
    partial = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _train_into(partial, settings)
    write_text_atomic(partial / _MANIFEST, wanted)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return directory


def vocabulary(settings: PolicySettings) -> list[str]:
    """Special tokens, then every word of the questions, tips and answers."""
    texts = [question.text for question in questions()]
    texts += [f"{tip.words} {tip.reason}" for t in TOPICS for tip in (*t.tips, *t.myths)]
    texts += [answer for _, answer in corpus(settings.answers_per_question, settings.seed)]
    words = sorted({word for text in texts for word in text.split(" ") if word})
    return [*_SPECIAL, *words]


def _tokenizer(words: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token=_UNKNOWN))
    # One blank parts two words; a line break is a word of its own.
    inner.pre_tokenizer = Split(Regex(" "), "removed")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token=_UNKNOWN,
        pad_token=_PAD,
        eos_token=_END,
        additional_special_tokens=[_USER, _ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _train_into(directory: Path, settings: PolicySettings) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = vocabulary(settings)
    tokenizer = _tokenizer(words)
    ids = {word: i for i, word in enumerate(words)}
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    heads = settings.hidden_size // 32  # vLLM's attention on CPU wants heads of at least 32
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=settings.hidden_size,
            intermediate_size=2 * settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=MAX_PROMPT_TOKENS + MAX_TOKENS,
            tie_word_embeddings=False,
            pad_token_id=ids[_PAD],
            bos_token_id=None,
            eos_token_id=ids[_END],
        )
    )
    examples = [
        _example(question, answer, ids)
        for question, answer in corpus(settings.answers_per_question, settings.seed)
    ]
    _fit(model, examples, ids[_PAD], settings)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _example(question: Question, answer: str, ids: dict[str, int]) -> tuple[list[int], int]:
    """Token ids, and how many of them are the prompt."""
    prompt = [_USER, *question.text.split(" "), _END, _ASSISTANT]
    return [ids[w] for w in (*prompt, *answer.split(" "), _END)], len(prompt)


def _fit(
    model: Any, examples: list[tuple[list[int], int]], pad: int, settings: PolicySettings
) -> None:
    """Next-token training on the answers, with a rate that rises to its peak and falls again."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    batches = settings.epochs * (len(examples) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=batches, pct_start=0.1, final_div_factor=1
    )
    rng = random.Random(settings.seed)
    model.train()
    for _ in range(settings.epochs):
        rng.shuffle(examples)
        for start in range(0, len(examples) - settings.batch_size + 1, settings.batch_size):
            tokens, labels = _batch(examples[start : start + settings.batch_size], pad)
            model(input_ids=tokens, labels=labels, attention_mask=tokens != pad).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()


def _batch(
    examples: Sequence[tuple[list[int], int]], pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, T] token ids padded at the right, and [B, T] labels of the answers alone."""
    import torch

    longest = max(len(tokens) for tokens, _ in examples)
    tokens = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), _IGNORED)
    for row, (ids, num_prompt) in enumerate(examples):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, num_prompt : len(ids)] = torch.tensor(ids[num_prompt:])
    return tokens, labels
