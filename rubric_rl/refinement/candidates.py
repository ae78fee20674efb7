"""Pools of candidate answers: our JSONL, and the layouts in which pools are found.

Ours has an answer a line:

    {"prompt_id": "h001", "source": "gpt-4.1", "index": 0, "text": "...", "finish_reason": "stop",
     "preference": 0.8}

`preference` is optional: a reference judge's probability that the answer is better than
a common reference answer. Also read: one prompt a line with all its answers,

    {"prompt_id": "...", "responses": [{"model": "...", "text": "...",
                                        "preferred_over_reference": 0.8}]}

An answer that failed or is empty is not an answer: it is left out and counted, and
never kept as text.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rubric_rl.data.reading import list_problems, read_jsonl
from rubric_rl.data.records import RawRow
from rubric_rl.errors import DataError
from rubric_rl.refinement.records import Candidate
from rubric_rl.rubrics.validation import describe_value, unknown_key_problems

_KEYS = ("prompt_id", "source", "index", "text", "finish_reason", "preference")
_NOT_AN_ANSWER = ("error", "content_filter")


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePool:
    """Answers by prompt, in file order, and how many were left out for which reason."""

    by_prompt: dict[str, tuple[Candidate, ...]]
    left_out: dict[str, int]

    def of(self, prompt_id: str) -> tuple[Candidate, ...]:
        """The answers to a prompt; none for one that the pool doesn't know."""
        return self.by_prompt.get(prompt_id, ())

    @property
    def num_candidates(self) -> int:
        return sum(len(candidates) for candidates in self.by_prompt.values())


def pool_of(candidates: Iterable[Candidate]) -> CandidatePool:
    """A pool without what is no answer. What has one source, index and text is kept once."""
    by_prompt: dict[str, dict[str, Candidate]] = {}
    left_out: Counter[str] = Counter()
    for candidate in candidates:
        own = by_prompt.setdefault(candidate.prompt_id, {})
        if not candidate.text.strip():
            left_out["empty"] += 1
        elif candidate.finish_reason in _NOT_AN_ANSWER:
            left_out[f"finish reason {candidate.finish_reason}"] += 1
        elif candidate.candidate_id in own:
            left_out["said before"] += 1
        else:
            own[candidate.candidate_id] = candidate
    return CandidatePool(
        by_prompt={prompt_id: tuple(own.values()) for prompt_id, own in by_prompt.items() if own},
        left_out=dict(left_out),
    )


def read_pool(path: Path) -> CandidatePool:
    """Read a pool in either layout.

    Raises:
        DataError: a missing file, or every line that is no answer in words.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file, want JSONL with answers to prompts")
    candidates: list[Candidate] = []
    problems: list[str] = []
    for row in read_jsonl(path):
        nested = "responses" in row.value
        found, wrong = _answers_of(row) if nested else _answer_of(row.value)
        candidates += found
        problems += [f"{row.source}: {problem}" for problem in wrong]
    if problems:
        raise DataError(f"{path} is not a valid pool of answers:{list_problems(problems)}")
    return pool_of(candidates)


def only_sources(
    pool: CandidatePool, sources: Sequence[str], *, option: str = "refinement.pool_sources"
) -> CandidatePool:
    """The answers of some models, of all if none is named. Raises DataError if none is left."""
    if not sources:
        return pool
    wanted = set(sources)
    kept = pool_of(c for own in pool.by_prompt.values() for c in own if c.source in wanted)
    if not kept.num_candidates:
        found = sorted({c.source for own in pool.by_prompt.values() for c in own})
        raise DataError(
            f"{option}={list(sources)}: the pool has no answer of these, it has "
            f"answers of {', '.join(found[:20])}"
        )
    return CandidatePool(by_prompt=kept.by_prompt, left_out=pool.left_out)


def candidate_line(candidate: Candidate) -> str:
    """The line of our JSONL, without a line break."""
    fields: dict[str, object] = {
        "prompt_id": candidate.prompt_id,
        "source": candidate.source,
        "index": candidate.index,
        "text": candidate.text,
        "finish_reason": candidate.finish_reason,
    }
    if candidate.preference is not None:
        fields["preference"] = candidate.preference
    return json.dumps(fields, ensure_ascii=True)


def top_candidates(candidates: Sequence[Candidate], limit: int) -> tuple[Candidate, ...]:
    """At most `limit` answers, of as many sources as possible: one of each in turn."""
    by_source: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_source.setdefault(candidate.source, []).append(candidate)
    return tuple(_in_turn(by_source, limit))


def _in_turn(by_source: dict[str, list[Candidate]], limit: int) -> Iterator[Candidate]:
    taken = 0
    for position in range(max((len(own) for own in by_source.values()), default=0)):
        for own in by_source.values():
            if position < len(own) and taken < limit:
                taken += 1
                yield own[position]


# ----------------------------------------------------------------------------
# Rows


def _answer_of(fields: dict[str, object]) -> tuple[list[Candidate], list[str]]:
    problems = unknown_key_problems(fields, _KEYS)
    for key in ("prompt_id", "source", "text"):
        if not isinstance(fields.get(key), str):
            problems.append(f"{key}: got {describe_value(fields.get(key))}, want a string")
    index, reason = fields.get("index", 0), fields.get("finish_reason", "stop")
    if isinstance(index, bool) or not isinstance(index, int):
        problems.append(f"index: got {describe_value(index)}, want a whole number")
    if not isinstance(reason, str):
        problems.append(f"finish_reason: got {describe_value(reason)}, want a string")
    preference = _preference(fields.get("preference"), problems)
    if problems:
        return [], problems
    return [
        Candidate(
            prompt_id=cast("str", fields["prompt_id"]),
            text=cast("str", fields["text"]),
            source=cast("str", fields["source"]),
            index=cast("int", index),
            finish_reason=cast("str", reason),
            preference=preference,
        )
    ], []


def _answers_of(row: RawRow) -> tuple[list[Candidate], list[str]]:
    """All answers of a row that holds one prompt."""
    prompt_id, responses = row.value.get("prompt_id"), row.value["responses"]
    if not isinstance(prompt_id, str) or not isinstance(responses, list):
        return [], ["want prompt_id (string) and responses (list)"]
    candidates: list[Candidate] = []
    problems: list[str] = []
    counts: Counter[str] = Counter()
    for position, item in enumerate(cast("list[object]", responses)):
        fields = cast("dict[str, object]", item) if isinstance(item, dict) else {}
        model, text = fields.get("model"), fields.get("text")
        if not isinstance(model, str) or not isinstance(text, str):
            problems.append(f"response {position}: want model and text (strings)")
            continue
        preference = _preference(fields.get("preferred_over_reference"), problems)
        candidates.append(
            Candidate(
                prompt_id=prompt_id,
                text=text,
                source=model,
                index=counts[model],
                preference=preference,
            )
        )
        counts[model] += 1
    return candidates, problems


def _preference(value: object, problems: list[str]) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    problems.append(f"preference: got {describe_value(value)}, want a number")
    return None
