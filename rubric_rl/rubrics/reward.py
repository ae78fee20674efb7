"""From verdicts to a reward.

Three rewards. With V = 1 for MET and 0 for UNMET (or the grade of an answer that is graded as a
whole, which is then its `weighted_share`), over judged criteria only:

    weighted_share  sum w * good / sum w, good = V or 1 - V by polarity; in [0, 1].
                    "Chasing the Tail", section 2, which has positive criteria only.
    signed_points   sum polarity * w * V / sum w of positive criteria; at most 1, may be
                    negative. The score of one HealthBench answer, before any clipping.
    gated           weighted_share over all judged criteria, gates among them, if every gate
                    holds: each essential criterion is MET and each veto UNMET. 0 as soon
                    as one gate is judged and does not hold, whatever the others are. No
                    reward if none is known to fail and one is UNKNOWN: the answer may have
                    earned its share or nothing, and either number would be made up.

The kind of a criterion matters to `gated` alone. There, what a failed gate took
away is kept beside the reward, so that both curves can be logged.

A criterion whose verdict is UNKNOWN leaves numerator and denominator. It is
not a zero: what it costs is coverage, and below a threshold the sample has no
reward at all. `signed_points` divide by positive weight alone, so they need that
coverage of the positive weight too: with +1 MET, +10 UNKNOWN and -9 MET, half of all
weight is judged, and the reward would be -8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rubric_rl.types import Criterion, Rubric, Score, Verdict, VerdictValue

RewardName = Literal["weighted_share", "signed_points", "gated"]


class _Judged(NamedTuple):
    """A criterion with a verdict that is not UNKNOWN."""

    criterion: Criterion
    value: float
    """V: 1 if it is MET, 0 if it is UNMET, its grade if it is GRADED."""

    @property
    def good(self) -> float:
        return self.value if self.criterion.polarity == 1 else 1.0 - self.value


def weighted_share(rubric: Rubric, verdicts: Sequence[Verdict]) -> float | None:
    """Weight of the judged criteria that came out well over the weight of all judged.

    None if no criterion was judged. Raises ValueError if verdicts and criteria
    don't match one to one, in any order.
    """
    judged = _judged(rubric, verdicts)
    good = [j.criterion.weight * j.good for j in judged]
    return _ratio(good, [j.criterion.weight for j in judged])


def signed_points(rubric: Rubric, verdicts: Sequence[Verdict]) -> float | None:
    """Signed weight of the criteria that are met over the weight of judged positive ones.

    None if no positive criterion was judged. Raises ValueError if verdicts and
    criteria don't match one to one, in any order.
    """
    judged = _judged(rubric, verdicts)
    points = [j.criterion.polarity * j.criterion.weight * j.value for j in judged]
    return _ratio(points, [j.criterion.weight for j in judged if j.criterion.polarity == 1])


def gated(rubric: Rubric, verdicts: Sequence[Verdict]) -> float | None:
    """The weighted share, or 0 if an essential criterion is UNMET or a veto is MET.

    None if no criterion was judged, or if a gate is UNKNOWN and no other has failed.
    Raises ValueError if verdicts and criteria don't match one to one, in any order.
    """
    share = weighted_share(rubric, verdicts)
    if _gate_failed(rubric, verdicts):
        return 0.0
    gates = {criterion.cid for criterion in rubric.criteria if criterion.is_gate}
    unknown = {verdict.cid for verdict in verdicts if verdict.value is VerdictValue.UNKNOWN}
    return None if gates & unknown else share


REWARDS: dict[RewardName, Callable[[Rubric, Sequence[Verdict]], float | None]] = {
    "weighted_share": weighted_share,
    "signed_points": signed_points,
    "gated": gated,
}


def score(
    rubric: Rubric, verdicts: Sequence[Verdict], *, reward: RewardName, min_coverage: float
) -> Score:
    """Reward and coverage of one sample; the value is None when it is unscored.

    A sample is unscored when its coverage is below `min_coverage`, even if a gate
    failed, when `signed_points` have less coverage than that of the positive weight,
    or when the reward has no value. `gated_from` is set exactly when the
    reward is `gated`, the sample is scored and a gate failed. Raises ValueError if
    verdicts and criteria don't match one to one, in any order.
    """
    coverage = _coverage(rubric, verdicts)
    least = min(coverage, _positive_coverage(rubric, verdicts) if reward == "signed_points" else 1)
    value = REWARDS[reward](rubric, verdicts) if least >= min_coverage else None
    taken = reward == "gated" and value is not None and _gate_failed(rubric, verdicts)
    return Score(
        value=value,
        coverage=coverage,
        gated_from=weighted_share(rubric, verdicts) if taken else None,
    )


def _gate_failed(rubric: Rubric, verdicts: Sequence[Verdict]) -> bool:
    """Whether a gate was judged and does not hold."""
    return any(
        judged.criterion.is_gate and judged.good < 1.0 for judged in _judged(rubric, verdicts)
    )


def _coverage(rubric: Rubric, verdicts: Sequence[Verdict]) -> float:
    judged = [j.criterion.weight for j in _judged(rubric, verdicts)]
    return math.fsum(judged) / math.fsum(c.weight for c in rubric.criteria)


def _positive_coverage(rubric: Rubric, verdicts: Sequence[Verdict]) -> float:
    """Judged share of the positive weight; 0 if there is none."""
    judged = [j.criterion.weight for j in _judged(rubric, verdicts) if j.criterion.polarity == 1]
    return _ratio(judged, [c.weight for c in rubric.criteria if c.polarity == 1]) or 0.0


def _judged(rubric: Rubric, verdicts: Sequence[Verdict]) -> list[_Judged]:
    criteria = {criterion.cid: criterion for criterion in rubric.criteria}
    got = [verdict.cid for verdict in verdicts]
    if sorted(got) != sorted(criteria):
        raise ValueError(
            f"verdicts {sorted(got)} don't match the criteria {sorted(criteria)} of the rubric "
            f"of prompt {rubric.prompt_id!r}"
        )
    return [
        _Judged(criteria[verdict.cid], _value(verdict))
        for verdict in verdicts
        if verdict.value is not VerdictValue.UNKNOWN
    ]


def _value(verdict: Verdict) -> float:
    return float(verdict.value is VerdictValue.MET) if verdict.grade is None else verdict.grade


def _ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float | None:
    # fsum rounds once, so the order of criteria and verdicts can't change a reward.
    return math.fsum(numerator) / math.fsum(denominator) if denominator else None
