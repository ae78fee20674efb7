"""What is told of each criterion, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rubric_rl.controller.assembly import make_group
from rubric_rl.controller.criteria_stats import criteria_stats, criterion_metrics
from rubric_rl.observability.records import CriterionStats
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.rubrics.rules import WordCount
from rubric_rl.types import (
    Criterion,
    FailureCause,
    JudgedSample,
    JudgeUsage,
    Rubric,
    Score,
    VerdictValue,
)

from .fakes import make_judgement, make_sample

MET, UNMET = VerdictValue.MET, VerdictValue.UNMET
TIMEOUT, MISSING = FailureCause.TIMEOUT, FailureCause.MISSING
Values = Sequence[VerdictValue | FailureCause]


def rubric_of(*cids: str, prompt_id: str = "p0") -> Rubric:
    """Criteria whose id starts with `rule` carry a rule."""
    criteria = tuple(
        Criterion(
            cid=cid, text="t", weight=1.0, rule=WordCount(max=9) if cid.startswith("rule") else None
        )
        for cid in cids
    )
    return Rubric(prompt_id=prompt_id, version=3, criteria=criteria)


def sample_of(
    rubric: Rubric,
    index: int,
    values: Values,
    *,
    cached: Sequence[str] = (),
    tokens: int = 0,
    cost_usd: float = 0.0,
    latency_s: float = 0.0,
    scored: bool = True,
) -> JudgedSample:
    judgement = make_judgement(rubric, values)
    verdicts = tuple(replace(v, cached=v.cid in cached) for v in judgement.verdicts)
    usage = JudgeUsage(prompt_tokens=tokens, cost_usd=cost_usd)
    return JudgedSample(
        sample=make_sample(rubric.prompt_id, index),
        judgement=replace(judgement, verdicts=verdicts, usage=usage, latency_s=latency_s),
        score=Score(value=0.5 if scored else None, coverage=1.0 if scored else 0.0),
    )


def stats_of(rubric: Rubric, *samples: JudgedSample) -> list[CriterionStats]:
    rubrics = RubricSet(version=3, rubrics=(rubric,))
    return [*criteria_stats([make_group(rubric, samples)], rubrics, step=7, phase="train")]


def test_a_row_tells_the_verdicts_of_one_criterion_over_its_group() -> None:
    rubric = rubric_of("c1")
    values: list[VerdictValue | FailureCause] = [MET, UNMET, MET, MET, TIMEOUT, MISSING, TIMEOUT]
    samples = [
        sample_of(rubric, index, [value], scored=not isinstance(value, FailureCause))
        for index, value in enumerate(values)
    ]
    (stats,) = stats_of(rubric, *samples)
    assert stats == CriterionStats(
        step=7,
        phase="train",
        prompt_id="p0",
        cid="c1",
        rubric_version=3,
        num_verdicts=7,
        num_unknown=3,
        num_cached=0,
        unknown_causes=((TIMEOUT, 2), (MISSING, 1)),
        pass_rate=3 / 4,
        variance=3 / 16,  # 3/4 * 1/4
        judge_tokens=0.0,
        judge_cost_usd=0.0,
        judge_latency_s=0.0,
    )


def test_rows_follow_the_groups_and_the_rubric() -> None:
    b, a = rubric_of("c2", "c1", prompt_id="b"), rubric_of("c1", prompt_id="a")
    groups = [
        make_group(b, [sample_of(b, 0, [MET, MET])]),
        make_group(a, [sample_of(a, 0, [MET])]),
    ]
    rubrics = RubricSet(version=3, rubrics=(a, b))
    rows = criteria_stats(groups, rubrics, step=1, phase="eval")
    assert [(row.prompt_id, row.cid) for row in rows] == [("b", "c2"), ("b", "c1"), ("a", "c1")]
    assert {row.phase for row in rows} == {"eval"}


@pytest.mark.parametrize(
    ("values", "pass_rate", "variance"),
    [
        ([MET, MET], 1.0, 0.0),
        ([UNMET, UNMET], 0.0, 0.0),
        ([MET, UNMET], 0.5, 0.25),
        # Of one verdict there is a rate but nothing to vary.
        ([MET, TIMEOUT], 1.0, None),
        ([TIMEOUT, TIMEOUT], None, None),
    ],
)
def test_an_unknown_verdict_is_in_no_rate(
    values: Values, pass_rate: float | None, variance: float | None
) -> None:
    rubric = rubric_of("c1")
    (stats,) = stats_of(rubric, *(sample_of(rubric, i, [value]) for i, value in enumerate(values)))
    assert (stats.pass_rate, stats.variance) == (pass_rate, variance)


def test_what_a_sample_took_is_shared_by_the_criteria_that_the_llm_judged() -> None:
    rubric = rubric_of("c1", "c2", "rule", "c3")
    stats = stats_of(
        rubric,
        # Three criteria were asked, one of them in vain.
        sample_of(rubric, 0, [MET, TIMEOUT, MET, MET], tokens=90, cost_usd=0.375, latency_s=1.5),
        # c1 is from the cache: two were asked.
        sample_of(
            rubric,
            1,
            [MET, MET, UNMET, UNMET],
            cached=["c1"],
            tokens=40,
            cost_usd=0.25,
            latency_s=0.5,
        ),
        # All are from the cache: what it took was nobody's.
        sample_of(rubric, 2, [MET] * 4, cached=["c1", "c2", "c3"], latency_s=9.0),
    )
    shares = [(s.cid, s.judge_tokens, s.judge_cost_usd, s.judge_latency_s) for s in stats]
    assert shares == [
        ("c1", 30, 0.125, 0.5),
        ("c2", 30 + 20, 0.125 + 0.125, 0.5 + 0.25),
        ("rule", 0, 0, 0),
        ("c3", 30 + 20, 0.125 + 0.125, 0.5 + 0.25),
    ]
    assert [s.num_cached for s in stats] == [2, 1, 0, 1]


def test_the_metrics_are_means_over_criteria() -> None:
    rubric = rubric_of("c1", "c2", "c3", "c4")
    stats = stats_of(
        rubric,
        sample_of(rubric, 0, [MET, MET, MET, TIMEOUT]),
        sample_of(rubric, 1, [MET, UNMET, TIMEOUT, TIMEOUT]),
    )
    # Pass rates 1, 0.5 and 1; variances 0 and 0.25; unknown 0, 0, 1/2 and 2/2.
    assert criterion_metrics(stats) == pytest.approx(
        {
            "criterion/pass_rate_mean": 2.5 / 3,
            "criterion/zero_variance_frac": 0.5,
            "criterion/within_group_std_mean": (0 + 0.5) / 2,
            "criterion/unknown_frac_max": 1.0,
        }
    )


def test_a_mean_over_nothing_is_left_out() -> None:
    rubric = rubric_of("c1")
    stats = stats_of(rubric, sample_of(rubric, 0, [TIMEOUT]), sample_of(rubric, 1, [TIMEOUT]))
    assert criterion_metrics(stats) == {"criterion/unknown_frac_max": 1.0}
    assert criterion_metrics([]) == {}
