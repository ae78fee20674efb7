"""Peak, onset and area: by hand, by properties, and on the series of the paper's Figure 4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.evaluation.overoptimisation import (
    Curve,
    CurvePoint,
    Decline,
    Gold,
    GoldWatch,
    analyse,
    common_kl,
    drop,
    gold_at_kl,
    watched,
)

# Win rates on health in %, steps 0, 20, ..., 200 (arXiv 2509.21500, Figure 4; 504 prompts).
FIGURE_4 = {
    "initial": [8.3, 16.9, 23.6, 18.6, 19.0, 16.9, 14.7, 15.9, 15.1, 15.9, 13.7],
    "1 good": [8.3, 17.9, 25.0, 23.6, 21.4, 19.2, 19.0, 19.0, 20.2, 17.9, 16.5],
    "1 great": [8.3, 17.1, 26.2, 30.6, 28.0, 21.6, 21.8, 25.2, 17.3, 21.2, 18.6],
    "4 great": [8.3, 17.5, 24.8, 29.8, 33.5, 31.5, 29.6, 33.9, 29.2, 30.0, 26.6],
    "4 great & diverse": [8.3, 15.1, 25.6, 31.1, 30.6, 31.7, 30.9, 31.5, 29.4, 26.2, 28.4],
}
NUM_PROMPTS = 504


def curve(
    golds: Sequence[Gold | float], proxies: Sequence[float] = (), kls: Sequence[float] = ()
) -> Curve:
    """Evaluations every 10 steps."""
    return Curve(
        name="test",
        points=tuple(
            CurvePoint(
                step=10 * i,
                gold=gold if isinstance(gold, Gold) else Gold(value=gold, standard_error=0.01),
                proxy=proxies[i] if proxies else None,
                kl=kls[i] if kls else None,
            )
            for i, gold in enumerate(golds)
        ),
    )


def analysed(found: Curve) -> Decline:
    decline = analyse(found)
    assert decline is not None
    return decline


def onset_of(golds: Sequence[Gold | float]) -> int | None:
    onset = analysed(curve(golds)).onset
    return None if onset is None else onset.step


def win_rate(percent: float) -> Gold:
    rate = percent / 100
    return Gold(value=rate, standard_error=math.sqrt(rate * (1 - rate) / NUM_PROMPTS))


def paired(*values: float) -> Gold:
    return Gold.of_prompts({f"p{i}": value for i, value in enumerate(values)})


# ----------------------------------------------------------------------------
# The rule


@pytest.mark.parametrize(
    ("condition", "peak", "onset", "is_confirmed"),
    [
        ("initial", 40, 60, True),
        ("1 good", 40, 100, True),
        ("1 great", 60, 100, True),
        ("4 great", 140, 200, False),  # the last evaluation only
        ("4 great & diverse", 100, None, False),
    ],
)
def test_in_figure_4_better_rubrics_decline_later(
    condition: str, peak: int, onset: int | None, is_confirmed: bool
) -> None:
    points = tuple(
        CurvePoint(step=20 * i, gold=win_rate(percent))
        for i, percent in enumerate(FIGURE_4[condition])
    )
    found = analysed(Curve(name=condition, points=points))
    assert found.peak.step == peak
    assert (None if found.onset is None else found.onset.step) == onset
    assert found.is_confirmed == is_confirmed


def test_a_drop_within_noise_is_no_onset() -> None:
    # One-sided 95 % of the difference: 1.645 * sqrt(2) * 0.01 = 0.0233.
    assert onset_of([0.2, 0.5, 0.477]) is None
    assert onset_of([0.2, 0.5, 0.476]) == 20


def test_gold_that_recovers_has_no_onset_and_one_that_falls_again_has_a_later_one() -> None:
    assert onset_of([0.2, 0.5, 0.4, 0.49]) is None
    assert onset_of([0.2, 0.5, 0.4, 0.49, 0.4, 0.4]) == 40


def test_the_peak_is_the_first_of_equal_ones() -> None:
    assert analysed(curve([0.2, 0.5, 0.5, 0.3])).peak.step == 10


def test_gold_that_never_rises_declines_from_its_first_evaluation() -> None:
    found = analysed(curve([0.5, 0.4, 0.3]))
    assert (found.peak.step, found.final_drop.value) == (0, pytest.approx(0.2))
    assert onset_of([0.5, 0.4, 0.3]) == 10


def test_a_decline_is_confirmed_by_two_evaluations_that_are_clearly_below() -> None:
    # With 2 and 3 evaluations before: z of 0.975 and 0.9833, 1.960 and 2.128; x 0.01414.
    assert analysed(curve([0.2, 0.5, 0.472, 0.469])).is_confirmed
    assert not analysed(curve([0.2, 0.5, 0.473, 0.469])).is_confirmed  # below, not clearly
    assert not analysed(curve([0.2, 0.5, 0.472, 0.471])).is_confirmed
    assert not analysed(curve([0.2, 0.5, 0.4])).is_confirmed
    assert analyse(curve([0.2, 0.5, 0.4]), min_below=1).is_confirmed  # type: ignore[union-attr]


def test_without_noise_any_lower_value_is_below_and_nothing_is_confirmed() -> None:
    found = analysed(curve([Gold(value=v) for v in (0.2, 0.5, 0.4999, 0.1, 0.1)]))
    assert found.onset is not None and found.onset.step == 20
    assert (found.final_drop.noise, found.is_confirmed) == ("unknown", False)


def test_the_interval_of_independent_evaluations_is_worked_out_by_hand() -> None:
    high, low = (Gold(value=v, standard_error=e) for v, e in ((0.5, 0.03), (0.4, 0.04)))
    found = drop(high, low, num_earlier=5)
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - 0.05 * NormalDist().inv_cdf(0.95))
    assert found.clear_low == pytest.approx(0.1 - 0.05 * NormalDist().inv_cdf(0.99))


def test_pairs_see_a_drop_that_the_spread_of_prompts_would_hide() -> None:
    high, low = paired(0.1, 0.5, 0.9, 0.3), paired(0.05, 0.45, 0.85, 0.25)
    found = drop(high, low)
    # Every prompt lost 0.05, so every resample did.
    assert (found.noise, found.value, found.low) == (
        "paired",
        pytest.approx(0.05),
        pytest.approx(0.05),
    )
    alone = drop(
        Gold(value=high.value, standard_error=high.standard_error),
        Gold(value=low.value, standard_error=low.standard_error),
    )
    assert not alone.is_below


def test_pairs_are_of_prompts_that_both_scored() -> None:
    found = drop(paired(0.5, 0.7, 1.0), Gold.of_prompts({"p0": 0.4, "p1": 0.4, "q": 0.0}))
    assert found.value == pytest.approx(0.2)


def test_the_bootstrap_is_near_the_normal_interval_of_many_prompts() -> None:
    differences = np.random.default_rng(3).normal(0.1, 0.5, 400)
    found = drop(
        Gold.of_prompts({str(i): float(d) for i, d in enumerate(differences)}),
        Gold.of_prompts({str(i): 0.0 for i in range(400)}),
    )
    error = differences.std(ddof=1) / 20
    assert found.low == pytest.approx(differences.mean() - 1.645 * error, abs=0.1 * error)


def test_gold_that_does_not_change_is_rarely_confirmed_to_decline() -> None:
    dice = np.random.default_rng(0)
    num_onsets = num_stops = 0
    for _ in range(300):
        watch: GoldWatch | None = None
        would_stop = False
        for step, noise in enumerate(dice.normal(0, 0.01, 20)):
            watch = watched(watch, step, Gold(value=0.5 + float(noise), standard_error=0.01))
            would_stop |= watch.num_clear >= 2
        assert watch is not None
        num_onsets += watch.onset_step is not None
        num_stops += would_stop
    assert 0.2 < num_onsets / 300 < 0.45
    assert num_stops / 300 < 0.1


VALUES = st.lists(st.floats(0, 1), min_size=3, max_size=8)


@given(values=VALUES, loss=st.floats(0, 1), place=st.integers(0, 7))
def test_lower_gold_after_the_peak_never_helps(values: list[float], loss: float, place: int):
    before = analysed(curve(values))
    index = 10 * (place % len(values))
    if index <= before.peak.step:
        return
    lower = [v - loss if 10 * i == index else v for i, v in enumerate(values)]
    after = analysed(curve(lower))
    if before.onset is not None:
        assert after.onset is not None and after.onset.step <= before.onset.step
    assert after.is_confirmed >= before.is_confirmed


@given(values=VALUES)
def test_one_by_one_the_rule_comes_to_what_it_finds_in_the_whole_curve(values: list[float]):
    for num in range(1, len(values) + 1):
        watch: GoldWatch | None = None
        for i, value in enumerate(values[:num]):
            watch = watched(watch, 10 * i, Gold(value=value, standard_error=0.01))
        assert watch is not None
        found = analysed(curve(values[:num]))
        assert watch.peak_step == found.peak.step
        assert watch.onset_step == (None if found.onset is None else found.onset.step)
        assert (watch.num_clear >= 2) == found.is_confirmed


# ----------------------------------------------------------------------------
# The area


def test_the_area_is_the_mean_height_of_normalised_proxy_above_gold() -> None:
    # Normalised proxy 0, 0.5, 1, 1; gold 0, 1, 0.5, 0: proxy minus gold 0, -0.5, 0.5, 1.
    # Above 0: nothing, the triangle 0.5 * 0.5 / 2, and 0.75, of 10 steps each, over 30.
    found = curve([0.2, 0.6, 0.4, 0.2], [1.0, 2.0, 3.0, 3.0], [0.0, 0.1, 0.3, 0.4])
    assert analysed(found).area_by_step == pytest.approx((0.125 + 0.75) / 3)
    # Over KL the same heights, of widths 0.1, 0.2 and 0.1.
    assert analysed(found).area_by_kl == pytest.approx((0.125 * 0.2 + 0.75 * 0.1) / 0.4)


def test_proxy_and_gold_that_go_together_have_no_area() -> None:
    assert analysed(curve([0.1, 0.2, 0.15], [1, 3, 2])).area_by_step == pytest.approx(0)


def test_a_kl_that_goes_back_is_put_in_its_order_and_equal_ones_are_averaged() -> None:
    found = curve([0.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 1.0], [0.0, 2.0, 1.0, 1.0])
    # Proxy minus gold by step: 0, 1, 0, 0.5. By KL: 0 at 0, 0.25 at 1, 1 at 2.
    assert analysed(found).area_by_kl == pytest.approx((0.125 + 0.625) / 2)
    assert gold_at_kl(found, 0.5) == pytest.approx(0.375)  # half way from 0 to 0.75
    assert gold_at_kl(found, 2.1) is None


def test_curves_meet_at_the_kl_that_all_reach() -> None:
    short, long = curve([0, 1], kls=[0, 0.2]), curve([0, 1], kls=[0, 0.7])
    assert common_kl([short, long]) == 0.2
    assert common_kl([short, curve([0, 1])]) is None
    assert gold_at_kl(curve([0, 1]), 0.1) is None


def test_without_proxy_or_gold_there_is_nothing_to_say() -> None:
    assert analyse(Curve(name="none", points=(CurvePoint(step=0, proxy=1.0),))) is None
    found = analysed(curve([0.1, 0.2]))
    assert (found.area_by_step, found.area_by_kl) == (None, None)


def test_steps_that_go_back_are_refused() -> None:
    with pytest.raises(ValueError, match="must increase"):
        Curve(name="x", points=(CurvePoint(step=2), CurvePoint(step=2)))
