"""How each criterion fared: pass rate, variance in its group, failures, and what it took.

Group (samples x verdicts) -> CriterionStats, one for each criterion -> metrics
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.observability.records import CriterionStats, Phase
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import (
    Criterion,
    FailureCause,
    Group,
    JudgedSample,
    Rubric,
    Verdict,
    VerdictValue,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one criterion took of judging one sample."""

    tokens: float = 0.0
    cost_usd: float = 0.0
    latency_s: float = 0.0

    def __add__(self, other: _Share) -> _Share:
        return _Share(
            tokens=self.tokens + other.tokens,
            cost_usd=self.cost_usd + other.cost_usd,
            latency_s=self.latency_s + other.latency_s,
        )


def criteria_stats(
    groups: Sequence[Group], rubrics: RubricSet, *, step: int, phase: Phase
) -> tuple[CriterionStats, ...]:
    """For each group in order, for each criterion of its rubric in order."""
    return tuple(
        stats
        for group in groups
        for stats in _group_stats(group, rubrics.of(group.prompt_id), step, phase)
    )


def criterion_metrics(stats: Sequence[CriterionStats]) -> dict[str, float]:
    """The `criterion/` metrics that have a value: a mean over nothing is left out."""
    pass_rates = [s.pass_rate for s in stats if s.pass_rate is not None]
    variances = [s.variance for s in stats if s.variance is not None]
    unknown = [s.num_unknown / s.num_verdicts for s in stats]
    metrics: dict[str, float] = {}
    if pass_rates:
        metrics["criterion/pass_rate_mean"] = statistics.fmean(pass_rates)
    if variances:
        metrics["criterion/zero_variance_frac"] = statistics.fmean(v == 0 for v in variances)
        metrics["criterion/within_group_std_mean"] = statistics.fmean(map(math.sqrt, variances))
    if unknown:
        metrics["criterion/unknown_frac_max"] = max(unknown)
    return metrics


def llm_verdicts(sample: JudgedSample, rubric: Rubric) -> list[Verdict]:
    """The verdicts that only an LLM could give: those of criteria without a rule."""
    by_llm = {criterion.cid for criterion in rubric.criteria if criterion.rule is None}
    return [verdict for verdict in sample.judgement.verdicts if verdict.cid in by_llm]


def _group_stats(group: Group, rubric: Rubric, step: int, phase: Phase) -> list[CriterionStats]:
    samples = group.scored + group.unscored
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    shares: dict[str, _Share] = defaultdict(_Share)
    for sample in samples:
        for verdict in sample.judgement.verdicts:
            verdicts[verdict.cid].append(verdict)
        asked, share = _asked(sample, rubric)
        for cid in asked:
            shares[cid] += share
    return [
        _stats(criterion, verdicts[criterion.cid], shares[criterion.cid], group, step, phase)
        for criterion in rubric.criteria
        if samples
    ]


def _asked(sample: JudgedSample, rubric: Rubric) -> tuple[list[str], _Share]:
    """The criteria that the LLM judged for this sample, and an equal share for each."""
    asked = [verdict.cid for verdict in llm_verdicts(sample, rubric) if not verdict.cached]
    if not asked:
        return [], _Share()
    judgement = sample.judgement
    return asked, _Share(
        tokens=judgement.usage.tokens / len(asked),
        cost_usd=judgement.usage.cost_usd / len(asked),
        latency_s=judgement.latency_s / len(asked),
    )


def _stats(
    criterion: Criterion,
    verdicts: Sequence[Verdict],
    share: _Share,
    group: Group,
    step: int,
    phase: Phase,
) -> CriterionStats:
    judged = (VerdictValue.MET, VerdictValue.UNMET)
    met = [v.value is VerdictValue.MET for v in verdicts if v.value in judged]
    pass_rate = statistics.fmean(met) if met else None
    return CriterionStats(
        step=step,
        phase=phase,
        prompt_id=group.prompt_id,
        cid=criterion.cid,
        rubric_version=group.rubric_version,
        num_verdicts=len(verdicts),
        num_unknown=sum(v.value is VerdictValue.UNKNOWN for v in verdicts),
        num_cached=sum(verdict.cached for verdict in verdicts),
        unknown_causes=_causes(verdicts),
        pass_rate=pass_rate,
        variance=pass_rate * (1 - pass_rate) if pass_rate is not None and len(met) > 1 else None,
        judge_tokens=share.tokens,
        judge_cost_usd=share.cost_usd,
        judge_latency_s=share.latency_s,
    )


def _causes(verdicts: Sequence[Verdict]) -> tuple[tuple[FailureCause, int], ...]:
    counts = Counter(verdict.cause for verdict in verdicts if verdict.cause is not None)
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
