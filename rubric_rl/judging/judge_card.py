"""A card on a judge: how far it agrees with another side, and with itself.

gradings, labels --comparison--> pairs --agreement--> figures with intervals --> JudgeCard
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.errors import DataError
from rubric_rl.judging import agreement
from rubric_rl.judging.agreement import Estimate, Pair
from rubric_rl.judging.comparison import (
    Disagreement,
    Graded,
    Label,
    label_pairs,
    pairs_of,
    require_pairs,
)

FORMAT = "rubric_rl.judge_card/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One judge's verdicts, on their own."""

    file: str
    judge_id: str
    mode: str
    template_hash: str
    num_answers: int
    num_verdicts: int
    unknown_share: Estimate
    unknown_causes: dict[str, int]
    cost_per_verdict_usd: Estimate
    """Per verdict that isn't UNKNOWN, as if none had come from a cache. 0 without a price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs whose probability lies in [low, high)."""

    low: float
    high: float
    num: int
    mean_probability: float | None
    met_share: float | None
    """By the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How far the judge's probabilities can be trusted."""

    ece: Estimate
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Two gradings of the same answers by one judge."""

    left: str
    right: str
    flip_rate: Estimate
    met_shift: Estimate
    """How much more often the left one says met."""
    kappa: Estimate
    num_cached: int
    """Verdicts that one had from a cache, which are no second opinion; left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCard:
    """All of it. Intervals are 95 %, by a bootstrap over prompts."""

    format: str
    judge: Side
    other: Side | None
    """None where the other side is labels."""
    labels: str | None
    num_pairs: int
    num_prompts: int
    num_unpaired: int
    """Verdicts of the judge, UNKNOWN or not, that the other side says nothing of."""
    num_left_out_unknown: int
    """Verdicts that would make a pair but for an UNKNOWN on either side."""
    judged_met_truth_met: int
    judged_met_truth_unmet: int
    judged_unmet_truth_met: int
    judged_unmet_truth_unmet: int
    accuracy: Estimate
    macro_f1: Estimate
    kappa: Estimate
    calibration: Calibration | None
    """None where the judge tells no probabilities."""
    repeat: Drift | None
    modes: tuple[Drift, ...]
    disagreements: tuple[Disagreement, ...]
    """The first few."""
    num_resamples: int
    seed: int


# ----------------------------------------------------------------------------
# The card


def make_card(
    judge: Graded,
    other: Graded | tuple[str, Sequence[Label]],
    *,
    repeat: Graded | None = None,
    modes: Sequence[Graded] = (),
    seed: int = 0,
) -> JudgeCard:
    """The card on `judge`; `other` is another grading, or the name of labels with them.

    Raises:
        DataError: nothing can be compared, or `repeat` or `modes` are of another judge.
    """
    by_labels = isinstance(other, tuple)
    found = label_pairs(judge, other[1]) if by_labels else pairs_of(judge, other)
    name = other[0] if by_labels else other.name
    require_pairs(found, judge, name)
    by_prompt = agreement.confusion_by_prompt(found.pairs)
    tp, fp, fn, tn = (round(count) for count in agreement.totals(by_prompt))
    figures = [agreement.accuracy, agreement.macro_f1, agreement.kappa]
    accuracy, macro_f1, kappa = agreement.estimates(
        by_prompt, figures, num=len(found.pairs), seed=seed
    )
    return JudgeCard(
        format=FORMAT,
        judge=_side(judge, seed),
        other=None if by_labels else _side(other, seed),
        labels=name if by_labels else None,
        num_pairs=len(found.pairs),
        num_prompts=len(by_prompt),
        num_unpaired=found.num_unpaired,
        num_left_out_unknown=found.num_unknown,
        judged_met_truth_met=tp,
        judged_met_truth_unmet=fp,
        judged_unmet_truth_met=fn,
        judged_unmet_truth_unmet=tn,
        accuracy=accuracy,
        macro_f1=macro_f1,
        kappa=kappa,
        calibration=_calibration(found.pairs, seed),
        repeat=None if repeat is None else _repeat(judge, repeat, seed),
        modes=_mode_drifts([judge, *modes], seed) if modes else (),
        disagreements=found.disagreements,
        num_resamples=agreement.NUM_RESAMPLES,
        seed=seed,
    )


def _side(graded: Graded, seed: int) -> Side:
    """One judge on its own."""
    unknown: dict[str, list[float]] = {}
    cost: dict[str, list[float]] = {}
    causes: Counter[str] = Counter()
    for row in graded.rows:
        verdicts = [verdict for verdict in row.verdicts if not verdict.by_rule]
        num_unknown = sum(verdict.cause is not None for verdict in verdicts)
        causes.update(v.cause.value for v in verdicts if v.cause is not None)
        for sums, part, whole in (
            (unknown, num_unknown, len(verdicts)),
            (cost, row.usage.cost_usd + row.usage.saved_usd, len(verdicts) - num_unknown),
        ):
            held = sums.setdefault(row.prompt_id, [0.0, 0.0])
            held[0] += part
            held[1] += whole
    num = round(agreement.totals(unknown)[1])
    (unknown_share,) = agreement.estimates(unknown, [agreement.share], num=num, seed=seed)
    num_known = round(agreement.totals(cost)[1])
    (per_verdict,) = agreement.estimates(cost, [agreement.share], num=num_known, seed=seed)
    return Side(
        file=graded.name,
        judge_id=graded.judge_id,
        mode=graded.mode,
        template_hash=graded.template_hash,
        num_answers=len(graded.rows),
        num_verdicts=num,
        unknown_share=unknown_share,
        unknown_causes=dict(causes.most_common()),
        cost_per_verdict_usd=per_verdict,
    )


def _calibration(pairs: Sequence[Pair], seed: int) -> Calibration | None:
    """None where no pair has a probability."""
    by_prompt = agreement.bins_by_prompt(pairs)
    if not by_prompt:
        return None
    sums = agreement.totals(by_prompt)
    num = round(sum(sums[::3]))
    (ece,) = agreement.estimates(by_prompt, [agreement.ece], num=num, seed=seed)
    bins = tuple(
        Bin(
            low=i / agreement.NUM_BINS,
            high=(i + 1) / agreement.NUM_BINS,
            num=round(sums[3 * i]),
            mean_probability=agreement.share([sums[3 * i + 1], sums[3 * i]]),
            met_share=agreement.share([sums[3 * i + 2], sums[3 * i]]),
        )
        for i in range(agreement.NUM_BINS)
    )
    return Calibration(ece=ece, bins=bins)


def _repeat(judge: Graded, repeat: Graded, seed: int) -> Drift:
    ours, theirs = (judge.mode, judge.template_hash), (repeat.mode, repeat.template_hash)
    if ours != theirs:
        raise DataError(
            f"{repeat.name} was graded in mode {repeat.mode}, templates {repeat.template_hash}, "
            f"and {judge.name} in mode {judge.mode}, templates {judge.template_hash}: a repeat "
            "changes nothing (other modes go to --modes)"
        )
    # A verdict from the cache may be the very one that it is compared with.
    return _drift(judge, repeat, (judge.name, repeat.name), skip_cached=True, seed=seed)


def _mode_drifts(gradings: Sequence[Graded], seed: int) -> tuple[Drift, ...]:
    """Every two of the gradings."""
    names = [f"{graded.mode} ({graded.name})" for graded in gradings]
    return tuple(
        _drift(gradings[i], gradings[j], (names[i], names[j]), skip_cached=False, seed=seed)
        for i in range(len(gradings))
        for j in range(i + 1, len(gradings))
    )


def _drift(
    left: Graded, right: Graded, names: tuple[str, str], *, skip_cached: bool, seed: int
) -> Drift:
    """How two gradings of one judge differ."""
    if left.judge_id != right.judge_id:
        raise DataError(
            f"{right.name} was judged by {right.judge_id!r} and {left.name} by {left.judge_id!r}: "
            "a repeat and other modes are of the same judge; give another judge's file as B"
        )
    found = pairs_of(left, right, skip_cached=skip_cached)
    require_pairs(found, left, right.name)
    by_prompt = agreement.confusion_by_prompt(found.pairs)
    figures = [agreement.flip_rate, agreement.met_shift, agreement.kappa]
    flip_rate, met_shift, kappa = agreement.estimates(
        by_prompt, figures, num=len(found.pairs), seed=seed
    )
    return Drift(
        left=names[0],
        right=names[1],
        flip_rate=flip_rate,
        met_shift=met_shift,
        kappa=kappa,
        num_cached=found.num_cached,
    )
