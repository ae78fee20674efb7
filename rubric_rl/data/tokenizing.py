"""The policy's tokenizer: chat template, and the checks that a model directory passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_rl.config.schema import ModelConfig
from rubric_rl.data.small_model import BUILTIN_NAME, prepare_small_model
from rubric_rl.errors import ModelError
from rubric_rl.types import PromptRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTokenizer:
    """What the run needs of the policy's tokenizer."""

    tokenize: Callable[[PromptRecord], list[int]]
    """Token ids of the chat-templated prompt, generation prompt included."""
    tokenize_answer: Callable[[str], list[int]]
    """Token ids of an answer to it with the token that ends the turn, as a policy writes them."""
    stop_token_ids: tuple[int, ...]
    """End of sequence, and the end of a turn in the chat template where that is another."""


def resolve_model_path(config: ModelConfig) -> str:
    """The directory or hub name to load from; prepares `builtin:` models.

    Raises:
        ModelError: a directory that isn't there or holds no model.
    """
    name = config.name_or_path
    if name == BUILTIN_NAME:
        return str(prepare_small_model(Path(config.cache_dir) if config.cache_dir else None))
    if name.startswith("builtin:"):
        raise ModelError(f"model.name_or_path={name!r} is not known: there is {BUILTIN_NAME!r}")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if not path.is_dir():
        if looks_local:
            raise ModelError(f"model.name_or_path={name!r} is not a directory")
        return name
    if not (path / "config.json").is_file():
        raise ModelError(
            f"model.name_or_path={name!r} holds no config.json: it must be a Hugging Face "
            "model directory"
        )
    return str(path)


def load_tokenizer(model_path: str, config: ModelConfig) -> PolicyTokenizer:
    """The tokenizer of a model directory, with its chat template.

    Raises:
        ModelError: there is no tokenizer, or it has no chat template or no
            end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_path, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as err:
        raise ModelError(
            f"model.name_or_path={config.name_or_path!r} has no tokenizer that can be loaded "
            f"({_first_line(err)}): add the tokenizer files (tokenizer.json, "
            "tokenizer_config.json) or name another model"
        ) from err
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of model.name_or_path={config.name_or_path!r} has no chat template: "
            "add chat_template.jinja to the directory, or use the model's chat variant"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of model.name_or_path={config.name_or_path!r} has no end-of-sequence "
            "token: set eos_token in its tokenizer_config.json"
        )

    def tokenize(record: PromptRecord) -> list[int]:
        messages = [{"role": m.role, "content": m.content} for m in record.messages]
        # Text first: what apply_chat_template returns for token ids differs
        # between versions of transformers.
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    end_of_turn = _end_of_turn(tokenizer) or [tokenizer.eos_token_id]

    def tokenize_answer(text: str) -> list[int]:
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], *end_of_turn]

    stops = {tokenizer.eos_token_id, *end_of_turn}
    return PolicyTokenizer(
        tokenize=tokenize,
        tokenize_answer=tokenize_answer,
        stop_token_ids=tuple(sorted(stops)),
    )


def _end_of_turn(tokenizer: Any) -> list[int]:
    """The special token that the chat template puts after an assistant's words.

    A base model's end of sequence is often not the token that ends its turns, and
    an engine that stops at the former only would let it write both sides.
    """
    marker = "the words of the assistant"
    messages = [{"role": "user", "content": "words"}, {"role": "assistant", "content": marker}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    after = tokenizer(text.partition(marker)[2].lstrip(), add_special_tokens=False)["input_ids"]
    return [i for i in after[:1] if i in tokenizer.all_special_ids]


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
