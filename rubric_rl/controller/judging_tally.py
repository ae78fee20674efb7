"""How judging went, and when it went too badly to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict, NonNegativeInt

from rubric_rl.config.schema import RubricsConfig
from rubric_rl.errors import JudgeFailureError
from rubric_rl.types import JudgedSample, VerdictValue

_WHAT_TO_CHECK = (
    "Check that the judge endpoint answers and that its replies are complete (judge.llm.base_url, "
    "judge.llm.timeout_s, judge.llm.max_reply_tokens); the samples/ files of the run folder hold "
    "the verdicts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingTally:
    """How judging went over some samples, dropped groups included."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    num_samples: NonNegativeInt
    num_unscored: NonNegativeInt
    causes: tuple[tuple[str, NonNegativeInt], ...]
    """Verdicts UNKNOWN by their cause, most frequent first."""

    @classmethod
    def of(cls, samples: Sequence[JudgedSample]) -> JudgingTally:
        causes = Counter(
            verdict.cause.value
            for sample in samples
            for verdict in sample.judgement.verdicts
            if verdict.value is VerdictValue.UNKNOWN and verdict.cause is not None
        )
        return cls(
            num_samples=len(samples),
            num_unscored=sum(sample.score.value is None for sample in samples),
            causes=_by_count(causes),
        )

    @classmethod
    def total(cls, tallies: Iterable[JudgingTally]) -> JudgingTally:
        num_samples, num_unscored = 0, 0
        causes: Counter[str] = Counter()
        for tally in tallies:
            num_samples += tally.num_samples
            num_unscored += tally.num_unscored
            causes.update(dict(tally.causes))
        return cls(num_samples=num_samples, num_unscored=num_unscored, causes=_by_count(causes))

    def in_words(self) -> str:
        """For an error message: `12 of 32 samples unscored; verdicts unknown: timeout 60`."""
        causes = ", ".join(f"{cause} {count}" for cause, count in self.causes) or "none"
        return (
            f"{self.num_unscored} of {self.num_samples} samples unscored; verdicts unknown "
            f"by cause: {causes}"
        )


def _by_count(causes: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(causes.items(), key=lambda item: (-item[1], item[0])))


def refuse_unscored(window: Sequence[JudgingTally], config: RubricsConfig) -> None:
    """Raise JudgeFailureError if too many samples of the window's steps are unscored.

    A window that isn't full yet is not judged, so that one bad step at the start
    of a run does not end it.
    """
    tally = JudgingTally.total(window)
    if len(window) < config.unscored_window_steps:
        return
    if tally.num_unscored > config.max_unscored_frac * tally.num_samples:
        raise JudgeFailureError(
            f"{tally.num_unscored / tally.num_samples:.0%} of samples are unscored over the last "
            f"{len(window)} steps, at most {config.max_unscored_frac:.0%} may be "
            f"(rubrics.max_unscored_frac): {tally.in_words()}. {_WHAT_TO_CHECK}. A checkpoint was "
            "left: fix it and set run.resume=auto"
        )


def nothing_scored(
    step: int, dropped: Sequence[JudgedSample], min_scored: int
) -> JudgeFailureError:
    """The error of a step whose groups were all dropped."""
    return JudgeFailureError(
        f"step {step}: no group has {min_scored} scored samples "
        f"(algorithm.min_scored_samples): {JudgingTally.of(dropped).in_words()}. "
        f"{_WHAT_TO_CHECK}. A checkpoint was left: fix it and set run.resume=auto"
    )
