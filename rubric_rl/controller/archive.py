"""The best answers since the last refinement, for each prompt: what refinement works on.

Kept in memory, saved with each checkpoint (`candidates.jsonl`), and emptied when the
rubrics are refined: an answer is only compared with others of about its time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.refinement.candidates import candidate_line
from rubric_rl.refinement.records import Candidate
from rubric_rl.types import Group, JudgedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedAnswer:
    """An answer of the policy with its reward at the time."""

    candidate: Candidate
    reward: float


class CandidateArchive:
    """At most `per_prompt` answers of each prompt, best first; of equal ones the earlier stays."""

    def __init__(self, per_prompt: int, answers: Iterable[ArchivedAnswer] = ()) -> None:
        self._per_prompt = per_prompt
        self._by_prompt: dict[str, list[ArchivedAnswer]] = {}
        for answer in answers:
            self._by_prompt.setdefault(answer.candidate.prompt_id, []).append(answer)

    def add(self, groups: Sequence[Group]) -> None:
        """Remember the best of some groups."""
        for group in groups:
            known = self._by_prompt.get(group.prompt_id, [])
            texts = {answer.candidate.text for answer in known}
            new = [_answer(s) for s in group.scored if s.sample.text not in texts]
            # A stable sort: equal rewards stay in the order of their samples.
            ranked = sorted([*known, *new], key=lambda answer: -answer.reward)
            self._by_prompt[group.prompt_id] = ranked[: self._per_prompt]

    def replace(self, groups: Sequence[Group]) -> None:
        """Forget what is known of these groups' prompts and remember the groups."""
        for group in groups:
            self._by_prompt.pop(group.prompt_id, None)
        self.add(groups)

    def of(self, prompt_id: str) -> tuple[ArchivedAnswer, ...]:
        return tuple(self._by_prompt.get(prompt_id, ()))

    def clear(self) -> None:
        self._by_prompt.clear()

    # ------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """One answer a line: a candidate's line with its reward."""
        lines = [
            json.dumps({"reward": answer.reward, "candidate": candidate_line(answer.candidate)})
            for answers in self._by_prompt.values()
            for answer in answers
        ]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    @classmethod
    def read(cls, path: Path, per_prompt: int) -> CandidateArchive:
        """What `write` wrote; an empty archive if there is no such file."""
        if not path.exists():
            return cls(per_prompt)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return cls(per_prompt, [_read_answer(row["candidate"], row["reward"]) for row in rows])


def _answer(judged: JudgedSample) -> ArchivedAnswer:
    sample, reward = judged.sample, judged.score.value
    assert reward is not None, "of a scored sample"
    return ArchivedAnswer(
        candidate=Candidate(
            prompt_id=sample.prompt_id,
            text=sample.text,
            source=f"policy@{sample.policy_version}",
            index=sample.sample_index,
            finish_reason=sample.finish_reason,
        ),
        reward=reward,
    )


def _read_answer(line: str, reward: float) -> ArchivedAnswer:
    return ArchivedAnswer(candidate=Candidate(**json.loads(line)), reward=reward)
