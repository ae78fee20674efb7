"""Pairs of answers, of which one is better, for a reward model.

    "Chasing the Tail", appendix D: for each prompt one pair of answers of the policy (on-policy),
    one of a great model (off-policy), or both, labelled by a judge

A pool's answers are labelled by their values: two whose values differ by more than the margin
make a pair. Which pairs of a prompt are taken is drawn by the seed, not by how far apart they
are. A file of pairs says which is which itself.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rubric_rl.baselines.answers import Answered, ValueOf, split_prompts
from rubric_rl.config.baselines import BradleyTerryConfig
from rubric_rl.data.records import RawRow, parse_messages
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.learner.pairs import TokenPair
from rubric_rl.types import Message, PromptRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Two answers to a prompt; `chosen` is the better one."""

    record: PromptRecord
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPairs:
    """Training and held-out pairs in a fixed order; no prompt has pairs in both."""

    train: tuple[TokenPair, ...]
    held_out: tuple[TokenPair, ...]


def check_kinds(config: BradleyTerryConfig) -> None:
    """Raises ConfigError unless the sources of each kind of pairs that is used are named."""
    kinds = _kinds(config)
    for kind, sources in kinds.items():
        if kind != "all" and not sources:
            raise ConfigError(
                f"bradley_terry.use={config.use!r} needs bradley_terry.{kind}: the sources of the "
                "pool that are meant, as in [qwen3-8b-base]"
            )
    both = set(config.on_policy) & set(config.off_policy)
    if both:
        raise ConfigError(
            f"{', '.join(sorted(both))} is in bradley_terry.on_policy and in off_policy: a source "
            "is one of the two"
        )


def _kinds(config: BradleyTerryConfig) -> dict[str, tuple[str, ...]]:
    """Sources by kind; `all` has every source."""
    on, off = {"on_policy": config.on_policy}, {"off_policy": config.off_policy}
    kinds = {"all": {"all": ()}, "on_policy": on, "off_policy": off, "both": on | off}
    return kinds[config.use]


def draw_pairs(
    answers: Mapping[str, Sequence[Answered]],
    config: BradleyTerryConfig,
    value: ValueOf,
    *,
    seed: int,
    left_out: Counter[str],
) -> list[PreferencePair]:
    """Pairs of each prompt and kind, by prompt in the order given.

    Raises:
        DataError: there is none, or a kind has none.
    """
    pairs: list[PreferencePair] = []
    for kind, sources in _kinds(config).items():
        found: list[PreferencePair] = []
        for prompt_id, own in answers.items():
            kept = [one for one in own if kind == "all" or one.candidate.source in sources]
            drawn = _draw(kept, config, value, random.Random(f"{seed}:{kind}:{prompt_id}"))
            left_out[f"prompts without a pair ({kind})"] += not drawn
            found += drawn
        if not found:
            known = sorted({one.candidate.source for own in answers.values() for one in own})
            raise DataError(
                f"no prompt has two answers of kind {kind!r} whose values differ by more than "
                f"bradley_terry.margin={config.margin:g}; values are the pool's `preference` or "
                f"those of bradley_terry.graded, sources are {', '.join(known[:20])}"
            )
        pairs += found
    return pairs


def _draw(
    answers: Sequence[Answered], config: BradleyTerryConfig, value: ValueOf, rng: random.Random
) -> list[PreferencePair]:
    valued = [
        (worth, one) for one in answers if (worth := value(one.record, one.candidate)) is not None
    ]
    decided = [
        (one, other) if a > b else (other, one)
        for (a, one), (b, other) in combinations(valued, 2)
        if abs(a - b) > config.margin
    ]
    rng.shuffle(decided)
    return [
        PreferencePair(
            record=better.record, chosen=better.candidate.text, rejected=worse.candidate.text
        )
        for better, worse in decided[: config.pairs_per_prompt]
    ]


# ----------------------------------------------------------------------------
# A file of pairs


def pair_of(
    row: RawRow, records: Mapping[str, PromptRecord]
) -> tuple[PreferencePair | None, list[str]]:
    """The pair of a row with `chosen` and `rejected`, and what is wrong with it.

    Its prompt is in the row (`prompt` as a string, or `messages`), or named by `prompt_id`.
    """
    fields, problems = row.value, list[str]()
    record = _record(row, records, problems)
    texts = [fields.get(key) for key in ("chosen", "rejected")]
    for key, text in zip(("chosen", "rejected"), texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            problems.append(f"{key}: want the text of an answer")
    if not problems and texts[0] == texts[1]:
        problems.append("chosen and rejected are the same")
    if problems or record is None:
        return None, problems
    return PreferencePair(record=record, chosen=str(texts[0]), rejected=str(texts[1])), []


def _record(
    row: RawRow, records: Mapping[str, PromptRecord], problems: list[str]
) -> PromptRecord | None:
    fields = row.value
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if prompt is None and messages is None:
        record = records.get(str(fields.get("prompt_id")))
        if record is None:
            problems.append("want prompt, messages, or the prompt_id of a prompt of data.path")
        return record
    if isinstance(prompt, str) and prompt.strip():
        turns: tuple[Message, ...] = (Message(role="user", content=prompt),)
    else:
        turns, found = parse_messages(prompt if messages is None else messages)
        problems.extend(f"prompt: {problem}" for problem in found)
    named = fields.get("prompt_id")
    return PromptRecord(
        prompt_id=named if isinstance(named, str) else _digest(turns),
        messages=turns,
        domain="",
        source=row.source,
        row_hash=row.row_hash,
    )


def _digest(turns: Sequence[Message]) -> str:
    """The same for every pair of one prompt, so that all are held out or none."""
    text = "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


# ----------------------------------------------------------------------------
# Tokens


def tokenized_pairs(
    pairs: Sequence[PreferencePair],
    config: BradleyTerryConfig,
    tokenize: Callable[[PromptRecord], list[int]],
    tokenize_answer: Callable[[str], list[int]],
    left_out: Counter[str],
) -> TokenPairs:
    """Both answers of each pair after the prompt, too long ones left out.

    Raises DataError if there is nothing to train on.
    """
    found: list[tuple[str, TokenPair]] = []
    for pair in pairs:
        prompt = tokenize(pair.record)
        chosen = (*prompt, *tokenize_answer(pair.chosen))
        rejected = (*prompt, *tokenize_answer(pair.rejected))
        if max(len(chosen), len(rejected)) > config.max_tokens:
            left_out[f"more than bradley_terry.max_tokens={config.max_tokens}"] += 1
        else:
            found.append((pair.record.prompt_id, TokenPair(chosen=chosen, rejected=rejected)))
    train, held_out = map(set, split_prompts((name for name, _ in found), config.eval_frac))
    if not train:
        raise DataError("no pair is left to train on: raise bradley_terry.max_tokens")
    return TokenPairs(
        train=tuple(pair for name, pair in found if name in train),
        held_out=tuple(pair for name, pair in found if name in held_out),
    )
