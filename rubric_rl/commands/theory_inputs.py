"""Answers with a rubric's rewards and gold values, out of the files that the project reads.

    IN is a graded file (rubric-rl judge --out)      rewards are there
    IN is a pool of answers, with --rubrics          rewards are given here, by rules or a judge
    gold values                                      `preference` in the pool, or --gold: another
                                                     graded file, or a pool with preferences

Files are joined by prompt and answer, by the hash that graded files carry. What lacks
either value is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from rubric_rl.data.records import LoadedPrompt
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.judging.graded_rows import FORMAT, read_graded
from rubric_rl.judging.grading import Answer
from rubric_rl.refinement.candidates import read_pool
from rubric_rl.refinement.records import Candidate
from rubric_rl.theory.answers import MIN_ANSWERS, PromptAnswers

AnswerKey = tuple[str, str]
"""Prompt id, and the answer's hash over prompt and response."""

# Equal sums of decimal weights differ in their last bits, and ties are what is looked for.
_DIGITS = 12
_GRADED_START = f'{{"format": "{FORMAT}"'.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Valued:
    """One answer with a value; None: it has none."""

    key: AnswerKey
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Prompts with answers enough, and what was left out for which reason."""

    prompts: tuple[PromptAnswers, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolAnswers:
    """A pool's answers to prompts that are known."""

    by_prompt: dict[str, tuple[Candidate, ...]]
    prompts: Mapping[str, LoadedPrompt]
    left_out: Counter[str] = field(default_factory=Counter[str])

    def key(self, candidate: Candidate) -> AnswerKey:
        loaded = self.prompts[candidate.prompt_id]
        answer = Answer(
            row_id="", record=loaded.record, rubric=loaded.rubric, response=candidate.text
        )
        return candidate.prompt_id, answer.answer_hash

    @property
    def candidates(self) -> list[Candidate]:
        return [candidate for own in self.by_prompt.values() for candidate in own]

    def preferences(self) -> list[Valued]:
        return [Valued(key=self.key(c), value=c.preference) for c in self.candidates]


def is_graded(path: Path) -> bool:
    """Whether a file is what `rubric-rl judge --out` writes, by how it begins.

    Raises DataError if it can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(_GRADED_START)) == _GRADED_START
    except OSError as err:
        raise DataError(f"{str(path)!r} can't be read: {err.strerror}") from err


def graded_values(path: Path) -> list[Valued]:
    """Rewards of a graded file. Raises DataError."""
    return [
        Valued(key=(row.prompt_id, row.answer_hash), value=row.reward) for row in read_graded(path)
    ]


def by_answer(valued: Sequence[Valued]) -> dict[AnswerKey, float]:
    """The value of each answer that has one; the mean where it has several."""
    found: dict[AnswerKey, list[float]] = {}
    for one in valued:
        if one.value is not None:
            found.setdefault(one.key, []).append(one.value)
    return {key: fmean(values) for key, values in found.items()}


def pool_answers(path: Path, prompts: Mapping[str, LoadedPrompt] | None) -> PoolAnswers:
    """A pool's answers to the prompts of --rubrics.

    Raises:
        ConfigError: --rubrics is not given.
        DataError: the pool can't be read, or none of its answers is to one of the prompts.
    """
    if prompts is None:
        raise ConfigError(
            f"{path} is a pool of answers, whose prompts are not in it: give their file with "
            "--rubrics"
        )
    pool = read_pool(path)
    by_prompt = {name: own for name, own in pool.by_prompt.items() if name in prompts}
    if not by_prompt:
        raise DataError(
            f"{path} has answers to {', '.join(list(pool.by_prompt)[:3])}, ..., and none to the "
            f"prompts of --rubrics, such as {', '.join(list(prompts)[:3])}: give files that belong "
            "together"
        )
    strangers = sum(len(own) for name, own in pool.by_prompt.items() if name not in prompts)
    left_out = Counter(pool.left_out)
    left_out["prompt not in --rubrics"] += strangers
    return PoolAnswers(by_prompt=by_prompt, prompts=prompts, left_out=+left_out)


def join(proxy: Sequence[Valued], gold: Sequence[Valued], left_out: Mapping[str, int]) -> Joined:
    """Answers of `proxy` with the gold value of the same answer.

    Raises DataError if no prompt has answers enough with both.
    """
    known = by_answer(gold)
    counts = Counter(left_out)
    pairs: dict[str, list[tuple[float, float]]] = {}
    for answer in proxy:
        if answer.value is None:
            counts["unscored by the rubric"] += 1
        elif answer.key not in known:
            counts["without a gold value"] += 1
        else:
            pair = (round(answer.value, _DIGITS), round(known[answer.key], _DIGITS))
            pairs.setdefault(answer.key[0], []).append(pair)
    for name in [name for name, own in pairs.items() if len(own) < MIN_ANSWERS]:
        counts[f"prompt with fewer than {MIN_ANSWERS} answers"] += len(pairs.pop(name))
    if not pairs:
        raise DataError(
            f"no prompt has {MIN_ANSWERS} answers with a reward and a gold value; left out: "
            f"{in_words(counts)}. Gold values are the pool's `preference`, or those of --gold"
        )
    return Joined(prompts=tuple(map(_prompt_answers, pairs, pairs.values())), left_out=+counts)


def in_words(left_out: Mapping[str, int]) -> str:
    """Counts by reason."""
    return ", ".join(f"{reason} {count}" for reason, count in left_out.items()) or "none"


def _prompt_answers(prompt_id: str, pairs: Sequence[tuple[float, float]]) -> PromptAnswers:
    values = np.array(pairs, dtype=np.float64)
    return PromptAnswers(prompt_id=prompt_id, proxy=values[:, 0], gold=values[:, 1])
