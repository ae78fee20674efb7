"""Rewards by hand, and what an UNKNOWN verdict may and may not change."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.rubrics.reward import RewardName, gated, score, signed_points, weighted_share
from rubric_rl.rubrics.whole_answer import WHOLE, whole_answer_rubric
from rubric_rl.types import (
    Criterion,
    CriterionKind,
    FailureCause,
    Polarity,
    Rubric,
    Score,
    Verdict,
    VerdictValue,
)

MET, UNMET, UNKNOWN = VerdictValue.MET, VerdictValue.UNMET, VerdictValue.UNKNOWN
REWARD_NAMES: tuple[RewardName, ...] = ("weighted_share", "signed_points", "gated")


def rubric_of(*signed_weights: float) -> Rubric:
    """Criteria c1, c2, ...; a negative number makes one of polarity -1."""
    criteria = [
        Criterion(cid=f"c{i}", text="t", weight=abs(w), polarity=1 if w > 0 else -1)
        for i, w in enumerate(signed_weights, start=1)
    ]
    return Rubric(prompt_id="p", version=0, criteria=tuple(criteria))


def gated_rubric() -> Rubric:
    """c1 essential +4, c2 +3, c3 -1, c4 veto -2: weights of 10 in all."""
    kinds: list[tuple[float, Polarity, CriterionKind]] = [
        (4.0, 1, "essential"),
        (3.0, 1, "normal"),
        (1.0, -1, "normal"),
        (2.0, -1, "veto"),
    ]
    criteria = [
        Criterion(cid=f"c{i}", text="t", weight=weight, polarity=polarity, kind=kind)
        for i, (weight, polarity, kind) in enumerate(kinds, start=1)
    ]
    return Rubric(prompt_id="p", version=0, criteria=tuple(criteria))


def verdicts_of(*values: VerdictValue) -> list[Verdict]:
    return [verdict(f"c{i}", value) for i, value in enumerate(values, start=1)]


def verdict(cid: str, value: VerdictValue) -> Verdict:
    cause = FailureCause.TIMEOUT if value is UNKNOWN else None
    return Verdict(cid=cid, value=value, reason="", cause=cause)


def all_but(num_criteria: int, *unmet: int) -> list[Verdict]:
    """Everything met, save the criteria at these positions (from 1)."""
    return verdicts_of(*(UNMET if i in unmet else MET for i in range(1, num_criteria + 1)))


# ----------------------------------------------------------------------------
# Worked examples


def test_paper_example_initial_rubric_ties_both_answers_at_18_of_20() -> None:
    # Weights sum to 20; both answers miss the same criterion, of weight 2 (here the seventh).
    rubric = rubric_of(3, 3, 3, 3, 2, 2, 2, 1, 1)
    first, second = all_but(9, 7), all_but(9, 7)
    assert weighted_share(rubric, first) == weighted_share(rubric, second) == 18 / 20


def test_paper_example_refined_rubric_breaks_the_tie_25_to_22_of_27() -> None:
    # Weights sum to 27. Both miss a weight 2; the second also misses the new criterion
    # of weight 2 and the new one of weight 1.
    rubric = rubric_of(3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1, 3)
    assert weighted_share(rubric, all_but(12, 7)) == 25 / 27
    assert weighted_share(rubric, all_but(12, 7, 8, 10)) == 22 / 27


def test_weighted_share_counts_a_negative_criterion_as_earned_when_it_is_unmet() -> None:
    # c1 +3 met, c2 +1 unmet, c3 -2 unmet: (3 + 2) / 6. Then c3 met: 3 / 6.
    rubric = rubric_of(3, 1, -2)
    assert weighted_share(rubric, verdicts_of(MET, UNMET, UNMET)) == 5 / 6
    assert weighted_share(rubric, verdicts_of(MET, UNMET, MET)) == 3 / 6


def test_signed_points_subtracts_met_negative_criteria_over_positive_points() -> None:
    # 7 of 10 positive points, minus 4: 3 / 10. Nothing positive and the bad one met: -4 / 10.
    rubric = rubric_of(7, 3, -4)
    assert signed_points(rubric, verdicts_of(MET, UNMET, MET)) == 3 / 10
    assert signed_points(rubric, verdicts_of(MET, UNMET, UNMET)) == 7 / 10
    assert signed_points(rubric, verdicts_of(UNMET, UNMET, MET)) == -4 / 10


@pytest.mark.parametrize(
    ("values", "share", "points", "coverage"),
    [
        # Weights +6, +2, -2, of 10. Judged: all.
        ((MET, UNMET, UNMET), 8 / 10, 6 / 8, 1.0),
        # c2 unknown: 8 of 8 judged weight is good; 6 of 6 positive points.
        ((MET, UNKNOWN, UNMET), 1.0, 1.0, 8 / 10),
        # c3 unknown: 6 of 8 judged; 6 of 8 points.
        ((MET, UNMET, UNKNOWN), 6 / 8, 6 / 8, 8 / 10),
        # c1 unknown: c3 is good, 2 of 4 judged; 0 of 2 points.
        ((UNKNOWN, UNMET, UNMET), 2 / 4, 0.0, 4 / 10),
    ],
)
def test_unknown_leaves_numerator_and_denominator_and_costs_coverage(
    values: Sequence[VerdictValue], share: float, points: float, coverage: float
) -> None:
    rubric, verdicts = rubric_of(6, 2, -2), verdicts_of(*values)
    by_share = score(rubric, verdicts, reward="weighted_share", min_coverage=0.1)
    by_points = score(rubric, verdicts, reward="signed_points", min_coverage=0.1)
    assert (by_share.value, by_share.coverage) == (share, coverage)
    assert (by_points.value, by_points.coverage) == (points, coverage)


def test_a_rubric_of_faults_only_has_a_share_but_no_points() -> None:
    # Validation refuses it. Of weights 1 and 3 the second is avoided: 3 / 4.
    rubric, verdicts = rubric_of(-1, -3), verdicts_of(MET, UNMET)
    assert weighted_share(rubric, verdicts) == gated(rubric, verdicts) == 3 / 4
    assert signed_points(rubric, verdicts) is None
    assert score(rubric, verdicts, reward="signed_points", min_coverage=0.5).value is None


@pytest.mark.parametrize("reward", REWARD_NAMES)
@pytest.mark.parametrize(("value", "expected"), [(MET, 1.0), (UNMET, 0.0), (UNKNOWN, None)])
def test_a_single_criterion_is_the_whole_reward(
    reward: RewardName, value: VerdictValue, expected: float | None
) -> None:
    got = score(rubric_of(7), verdicts_of(value), reward=reward, min_coverage=0.5)
    assert got == Score(value=expected, coverage=0.0 if value is UNKNOWN else 1.0)


def test_signed_points_of_one_answer_by_hand() -> None:
    # Points 7, 3, 5, -4, -8. Met: 7, 5, -4. (7 + 5 - 4) / (7 + 3 + 5) = 8 / 15.
    rubric = rubric_of(7, 3, 5, -4, -8)
    assert signed_points(rubric, verdicts_of(MET, UNMET, MET, MET, UNMET)) == 8 / 15
    # All faults and nothing else: -12 / 15. All that is good and no fault: 1.
    assert signed_points(rubric, verdicts_of(UNMET, UNMET, UNMET, MET, MET)) == -12 / 15
    assert signed_points(rubric, verdicts_of(MET, MET, MET, UNMET, UNMET)) == 1
    # The 5 and the -8 unknown: (7 - 4) / (7 + 3).
    assert signed_points(rubric, verdicts_of(MET, UNMET, UNKNOWN, MET, UNKNOWN)) == 3 / 10


def test_signed_points_need_coverage_of_the_positive_weight_too() -> None:
    # +1 MET, +10 UNKNOWN, -9 MET: (1 - 9) / 1 = -8 from 10 of 20 weights, but 1 of 11 positive.
    rubric, verdicts = rubric_of(1, 10, -9), verdicts_of(MET, UNKNOWN, MET)
    assert signed_points(rubric, verdicts) == -8
    got = score(rubric, verdicts, reward="signed_points", min_coverage=0.5)
    assert got == Score(value=None, coverage=0.5)
    at, below = (
        score(rubric, verdicts, reward="signed_points", min_coverage=c)
        for c in (1 / 11, 1 / 11 + 1e-9)
    )
    assert (at.value, below.value) == (-8, None)
    # The other way round, 10 of 11 are judged: (10 - 9) / 10.
    got = score(rubric, verdicts_of(UNKNOWN, MET, MET), reward="signed_points", min_coverage=0.5)
    assert got == Score(value=1 / 10, coverage=19 / 20)
    # The share, whose denominator holds all judged weight, stays what it was: 1 of 10.
    got = score(rubric, verdicts, reward="weighted_share", min_coverage=0.5)
    assert got == Score(value=1 / 10, coverage=0.5)


# ----------------------------------------------------------------------------
# Gates


@pytest.mark.parametrize(
    ("values", "share", "value", "gated_from"),
    [
        # Essential +4, +3, -1, veto -2.
        ((MET, MET, UNMET, UNMET), 1.0, 1.0, None),
        ((MET, UNMET, MET, UNMET), 6 / 10, 6 / 10, None),
        # The veto is met: 4 + 3 + 1 of 10 are good, and all of it is lost.
        ((MET, MET, UNMET, MET), 8 / 10, 0.0, 8 / 10),
        # The essential one is not met.
        ((UNMET, MET, UNMET, UNMET), 6 / 10, 0.0, 6 / 10),
        # Nothing is left to lose, but a gate failed.
        ((UNMET, UNMET, MET, MET), 0.0, 0.0, 0.0),
        # A normal criterion is unknown: 4 + 1 + 2 of 7; 1 of 7 with both gates failed.
        ((MET, UNKNOWN, UNMET, UNMET), 1.0, 1.0, None),
        ((UNMET, UNKNOWN, UNMET, MET), 1 / 7, 0.0, 1 / 7),
        # A gate is unknown and the other holds: it could be either.
        ((MET, MET, UNMET, UNKNOWN), 1.0, None, None),
        ((UNKNOWN, MET, UNMET, UNMET), 1.0, None, None),
        ((UNKNOWN, MET, UNMET, UNKNOWN), 1.0, None, None),
        # A gate is unknown and the other failed: it is 0 in any case.
        ((UNKNOWN, MET, UNMET, MET), 4 / 6, 0.0, 4 / 6),
        ((UNMET, MET, MET, UNKNOWN), 3 / 8, 0.0, 3 / 8),
        ((UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), None, None, None),
    ],
)
def test_the_gated_reward_by_hand(
    values: Sequence[VerdictValue],
    share: float | None,
    value: float | None,
    gated_from: float | None,
) -> None:
    rubric, verdicts = gated_rubric(), verdicts_of(*values)
    assert weighted_share(rubric, verdicts) == share
    assert gated(rubric, verdicts) == value
    got = score(rubric, verdicts, reward="gated", min_coverage=0.1)
    assert (got.value, got.gated_from) == (value, gated_from)


def test_too_little_coverage_is_unscored_even_if_a_gate_failed() -> None:
    # The essential one alone is judged: 4 of 10.
    verdicts = verdicts_of(UNMET, UNKNOWN, UNKNOWN, UNKNOWN)
    at, below = (
        score(gated_rubric(), verdicts, reward="gated", min_coverage=least) for least in (0.4, 0.5)
    )
    assert at == Score(value=0.0, coverage=0.4, gated_from=0.0)
    assert below == Score(value=None, coverage=0.4)


@pytest.mark.parametrize("reward", ["weighted_share", "signed_points"])
@pytest.mark.parametrize("gate", [MET, UNMET, UNKNOWN])
def test_kinds_change_nothing_for_the_other_rewards(reward: RewardName, gate: VerdictValue) -> None:
    plain = rubric_of(4, 3, -1, -2)
    for values in [(gate, MET, UNMET, UNMET), (MET, UNMET, MET, gate)]:
        verdicts = verdicts_of(*values)
        got = score(gated_rubric(), verdicts, reward=reward, min_coverage=0.5)
        assert got == score(plain, verdicts, reward=reward, min_coverage=0.5)
        assert got.gated_from is None


def test_an_unknown_of_an_evenly_good_answer_leaves_the_value_but_lowers_coverage() -> None:
    # Half of the positive and half of the negative weight is good: 1/2 with and without c3, c6.
    rubric = rubric_of(2, 2, 3, -2, -2, -3)
    known = verdicts_of(MET, UNMET, UNKNOWN, UNMET, MET, UNKNOWN)
    got = score(rubric, known, reward="weighted_share", min_coverage=0.5)
    assert (got.value, got.coverage) == (0.5, 8 / 14)


def test_coverage_below_the_threshold_is_unscored_and_at_it_scored() -> None:
    rubric, verdicts = rubric_of(1, 1), verdicts_of(MET, UNKNOWN)
    assert score(rubric, verdicts, reward="weighted_share", min_coverage=0.5).value == 1.0
    below = score(rubric, verdicts, reward="weighted_share", min_coverage=0.51)
    assert (below.value, below.coverage) == (None, 0.5)


@pytest.mark.parametrize("reward", REWARD_NAMES)
def test_nothing_judged_is_unscored_and_never_zero(reward: RewardName) -> None:
    got = score(rubric_of(1, -1), verdicts_of(UNKNOWN, UNKNOWN), reward=reward, min_coverage=0.0)
    assert (got.value, got.coverage) == (None, 0.0)


def test_signed_points_without_a_judged_positive_criterion_is_unscored() -> None:
    rubric, verdicts = rubric_of(1, -3), verdicts_of(UNKNOWN, UNMET)
    got = score(rubric, verdicts, reward="signed_points", min_coverage=0.5)
    assert (got.value, got.coverage) == (None, 0.75)
    assert weighted_share(rubric, verdicts) == 1.0


@pytest.mark.parametrize(
    "verdicts",
    [
        verdicts_of(MET),
        verdicts_of(MET, MET, MET),
        [verdict("c1", MET), verdict("c1", MET)],
        [verdict("c1", MET), verdict("x", MET)],
        [],
    ],
    ids=["missing", "extra", "duplicate", "foreign", "none"],
)
def test_verdicts_that_do_not_match_the_criteria_are_a_bug(verdicts: list[Verdict]) -> None:
    with pytest.raises(ValueError, match="don't match the criteria"):
        score(rubric_of(1, 1), verdicts, reward="weighted_share", min_coverage=0.5)


# ----------------------------------------------------------------------------
# Properties

weights = st.floats(min_value=0.01, max_value=100)
polarities: st.SearchStrategy[Polarity] = st.sampled_from((1, -1))
items = st.lists(st.tuples(weights, polarities, st.sampled_from([MET, UNMET, UNKNOWN])), min_size=1)
Items = list[tuple[float, Polarity, VerdictValue]]


def build(items: Items) -> tuple[Rubric, list[Verdict]]:
    return (
        rubric_of(*(weight * polarity for weight, polarity, _ in items)),
        verdicts_of(*(value for _, _, value in items)),
    )


@given(items)
def test_weighted_share_and_coverage_lie_between_0_and_1(items: Items) -> None:
    got = score(*build(items), reward="weighted_share", min_coverage=0.0)
    assert got.value is None or 0 <= got.value <= 1
    assert 0 <= got.coverage <= 1


@given(items)
def test_signed_points_is_at_most_1(items: Items) -> None:
    value = signed_points(*build(items))
    assert value is None or value <= 1


@given(items)
def test_an_unknown_verdict_equals_a_rubric_without_the_criterion(items: Items) -> None:
    rubric, verdicts = build(items)
    judged = [v for v in verdicts if v.value is not UNKNOWN]
    cids = {v.cid for v in judged}
    criteria = tuple(c for c in rubric.criteria if c.cid in cids)
    smaller = Rubric(prompt_id="p", version=0, criteria=criteria)
    assert weighted_share(rubric, verdicts) == weighted_share(smaller, judged)
    assert gated(rubric, verdicts) == gated(smaller, judged)
    assert signed_points(rubric, verdicts) == signed_points(smaller, judged)


@given(items, st.randoms(use_true_random=False))
def test_the_order_of_verdicts_and_criteria_does_not_matter(
    items: Items, rng: random.Random
) -> None:
    rubric, verdicts = build(items)
    shuffled = Rubric(
        prompt_id="p", version=0, criteria=tuple(rng.sample(rubric.criteria, len(items)))
    )
    mixed = rng.sample(verdicts, len(items))
    for name in REWARD_NAMES:
        expected = score(rubric, verdicts, reward=name, min_coverage=0.5)
        assert score(shuffled, mixed, reward=name, min_coverage=0.5) == expected


@given(items)
def test_the_judges_failures_never_lower_a_perfect_answer(items: Items) -> None:
    perfect: Items = [
        (weight, polarity, UNKNOWN if value is UNKNOWN else (MET if polarity == 1 else UNMET))
        for weight, polarity, value in items
    ]
    assert weighted_share(*build(perfect)) in (None, 1.0)


@given(items)
def test_without_gates_the_gated_reward_is_the_weighted_share(items: Items) -> None:
    rubric, verdicts = build(items)
    assert gated(rubric, verdicts) == weighted_share(rubric, verdicts)


gates = st.sampled_from((MET, UNMET, UNKNOWN))


@given(st.tuples(gates, gates, gates, gates))
def test_a_gated_reward_is_0_or_what_it_would_have_been(values: tuple[VerdictValue, ...]) -> None:
    rubric, verdicts = gated_rubric(), verdicts_of(*values)
    got = score(rubric, verdicts, reward="gated", min_coverage=0.0)
    share = weighted_share(rubric, verdicts)
    assert got.value in (None, 0.0, share)
    assert got.gated_from in (None, share)
    if got.gated_from is not None:
        assert got.value == 0


def test_a_grade_of_the_whole_answer_is_its_share_whatever_number_it_is() -> None:
    rubric = whole_answer_rubric("p")
    for grade in (0.25, -3.5, 12.0):
        graded = [Verdict(cid=WHOLE, value=VerdictValue.GRADED, reason="", grade=grade)]
        assert weighted_share(rubric, graded) == grade
    unknown = [Verdict(cid=WHOLE, value=UNKNOWN, reason="", cause=FailureCause.REWARD_MODEL)]
    assert score(rubric, unknown, reward="weighted_share", min_coverage=0.5).value is None
