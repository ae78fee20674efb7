"""Answers with the prompts that they answer, and how much each is worth.

    pool + prompts (+ a graded file) --> Answered, prompt by prompt

What is left out is counted by reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rubric_rl.errors import DataError
from rubric_rl.refinement.candidates import CandidatePool
from rubric_rl.refinement.records import Candidate
from rubric_rl.types import PromptRecord

ValueOf = Callable[[PromptRecord, Candidate], float | None]
"""What an answer is worth; None where it isn't known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer with its prompt."""

    record: PromptRecord
    candidate: Candidate


def by_preference(_: PromptRecord, candidate: Candidate) -> float | None:
    """The pool's own label."""
    return candidate.preference


def with_prompts(
    pool: CandidatePool, records: Sequence[PromptRecord], left_out: Counter[str]
) -> dict[str, list[Answered]]:
    """The answers by prompt, in the pool's order; cut ones and strangers are left out.

    Raises DataError if none is to one of the prompts.
    """
    known = {record.prompt_id: record for record in records}
    answers: dict[str, list[Answered]] = {}
    for prompt_id, candidates in pool.by_prompt.items():
        if prompt_id not in known:
            left_out["prompt not in data.path"] += len(candidates)
            continue
        for candidate in candidates:
            if candidate.finish_reason == "length":
                left_out["cut at its longest length"] += 1
            else:
                one = Answered(record=known[prompt_id], candidate=candidate)
                answers.setdefault(prompt_id, []).append(one)
    if not answers:
        raise DataError(
            f"the pool has answers to {', '.join(list(pool.by_prompt)[:3])}, ..., and none that "
            f"is whole to one of the {len(known)} prompts of data.path: give files that belong "
            "together"
        )
    return answers


def split_prompts(prompt_ids: Iterable[str], eval_frac: float) -> tuple[list[str], list[str]]:
    """Training and held-out prompts; the latter by the hash of their ids, at least one if
    `eval_frac` is not 0 and there are two prompts.

    Which prompts are held out does not depend on the order, so that two baselines on
    the same prompts hold out the same.
    """
    ids = list(dict.fromkeys(prompt_ids))
    count = 0 if eval_frac == 0 or len(ids) < 2 else max(1, round(eval_frac * len(ids)))
    ordered = sorted(ids, key=lambda one: hashlib.sha256(one.encode()).hexdigest())
    held_out = set(ordered[: min(count, len(ids) - 1)])
    return [i for i in ids if i not in held_out], [i for i in ids if i in held_out]


def in_words(left_out: Mapping[str, int]) -> str:
    """Counts by reason."""
    return ", ".join(f"{reason} {count}" for reason, count in left_out.items()) or "none"
