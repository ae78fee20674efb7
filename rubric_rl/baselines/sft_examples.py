"""What supervised fine-tuning is trained on: prompts with answers, as tokens.

    "Chasing the Tail", section 4.4: two answers of a great model to each prompt

An example is a `TrainSample` whose advantage is 1 and whose loss mask is 1 on the answer and the
token that ends it, and nowhere else: the prompt is not in `completion_token_ids` at all. With the
policy loss `rft` (-A log p, a mean over tokens) the learner's objective is then the negative
log-likelihood of the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from rubric_rl.baselines.answers import Answered, ValueOf, split_prompts
from rubric_rl.config.baselines import SftConfig
from rubric_rl.data.records import RawRow, parse_messages
from rubric_rl.errors import DataError
from rubric_rl.refinement.records import Candidate
from rubric_rl.types import PromptRecord, TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Training and held-out samples in a fixed order."""

    train: tuple[TrainSample, ...]
    held_out: tuple[TrainSample, ...]


def chosen(
    answers: Mapping[str, Sequence[Answered]],
    config: SftConfig,
    value: ValueOf,
    left_out: Counter[str],
) -> list[Answered]:
    """The `top_k` answers to each prompt by `rank_by`, of equal ones the first in the file.

    Raises DataError if answers are to be ranked and none has a value.
    """
    found = [_best(own, config, value, left_out) for own in answers.values()]
    picked = [one for own in found for one in own]
    if not picked:
        raise DataError(
            f"sft.rank_by={config.rank_by!r}: no answer has a value: give a pool with "
            "`preference`, or sft.graded, or set sft.rank_by=order"
        )
    return picked


def _best(
    answers: Sequence[Answered], config: SftConfig, value: ValueOf, left_out: Counter[str]
) -> Sequence[Answered]:
    if config.rank_by == "order":
        ranked: Sequence[Answered] = answers
    else:
        values = [(value(one.record, one.candidate), one) for one in answers]
        valued = [(worth, one) for worth, one in values if worth is not None]
        left_out["without a value"] += len(answers) - len(valued)
        ranked = [one for _, one in sorted(valued, key=lambda item: -item[0])]
    kept = ranked if config.top_k is None else ranked[: config.top_k]
    left_out["not among the best"] += len(ranked) - len(kept)
    return kept


def conversation(row: RawRow) -> tuple[Answered | None, list[str]]:
    """The answer of a row with `messages` that end with the assistant's, and its problems."""
    raw = row.value.get("messages")
    turns = cast("list[object]", raw) if isinstance(raw, list) else []
    text = _last_answer(turns)
    if text is None:
        return None, ["messages: want a list that ends with a turn of the assistant that has text"]
    messages, problems = parse_messages(turns[:-1])
    if problems:
        return None, [f"messages: {problem}" for problem in problems]
    name = row.value.get("id")
    prompt_id = name if isinstance(name, str) else row.row_hash[:16]
    record = PromptRecord(
        prompt_id=prompt_id,
        messages=messages,
        domain="",
        source=row.source,
        row_hash=row.row_hash,
    )
    return Answered(
        record=record, candidate=Candidate(prompt_id=prompt_id, text=text, source="messages")
    ), []


def _last_answer(turns: Sequence[object]) -> str | None:
    last = turns[-1] if turns else None
    if not isinstance(last, dict):
        return None
    fields = cast("dict[str, object]", last)
    text = fields.get("content")
    is_answer = fields.get("role") == "assistant" and isinstance(text, str) and text.strip()
    return cast("str", text) if is_answer else None


def tokenized(
    answers: Sequence[Answered],
    config: SftConfig,
    tokenize: Callable[[PromptRecord], list[int]],
    tokenize_answer: Callable[[str], list[int]],
    left_out: Counter[str],
) -> Examples:
    """Examples of the answers that are not too long.

    Raises DataError if there is nothing to train on.
    """
    samples: list[tuple[str, TrainSample]] = []
    for one in answers:
        sample = example(tokenize(one.record), tokenize_answer(one.candidate.text))
        if sample.num_tokens > config.max_tokens:
            left_out[f"more than sft.max_tokens={config.max_tokens}"] += 1
        else:
            samples.append((one.record.prompt_id, sample))
    train, held_out = map(set, split_prompts((name for name, _ in samples), config.eval_frac))
    if not train:
        raise DataError("no answer is left to train on: raise sft.max_tokens, or give another pool")
    return Examples(
        train=tuple(sample for name, sample in samples if name in train),
        held_out=tuple(sample for name, sample in samples if name in held_out),
    )


def example(prompt: Sequence[int], answer: Sequence[int]) -> TrainSample:
    """A prompt with an answer to be learned; the prompt is not in the loss."""
    return TrainSample(
        prompt_token_ids=tuple(prompt),
        completion_token_ids=tuple(answer),
        rollout_log_probs=(0.0,) * len(answer),
        loss_mask=(1,) * len(answer),
        advantage=1.0,
    )
