"""The verdict can come out each way, and the figures are those computed by hand."""

import numpy as np
import pytest

from rubric_rl.lab.comparison import Interval, condition_curves, differences, verdict
from rubric_rl.lab.measures import win_rate
from rubric_rl.lab.onset import decline
from rubric_rl.lab.report import conclusion

from .builders import made_up_run, made_up_runs

EARLY = (0.50, 0.60, 0.55, 0.50, 0.45, 0.40)
LATE = (0.50, 0.60, 0.65, 0.70, 0.60, 0.50)
RISING = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75)


def test_onset_is_where_the_stay_below_the_peak_begins() -> None:
    # Means .5 .7 .6 .7-ish .5 .4: at the fourth step it is back within the noise, so the fall
    # that lasts begins at the fifth.
    units = np.array([[0.5, 0.5], [0.7, 0.7], [0.6, 0.6], [0.70, 0.69], [0.5, 0.5], [0.4, 0.4]])
    found = decline(units)
    # Gaps of the fourth step: 0 and 0.01, mean 0.005, standard error 0.005: not above it.
    assert (found.peak, found.onset) == (1, 4)


def test_a_curve_that_rises_to_the_end_has_no_onset() -> None:
    assert decline(np.array(RISING)[:, None] + np.zeros((6, 3))).onset is None


def test_a_fall_within_one_standard_error_is_none() -> None:
    # Gaps 0.2 and -0.1: mean 0.05, standard deviation 0.212, standard error 0.15.
    assert decline(np.array([[0.5, 0.5], [0.3, 0.6]])).onset is None


def test_a_single_unit_declines_by_any_fall() -> None:
    assert decline(np.array([[0.5], [0.6], [0.59]])).onset == 2


@pytest.mark.parametrize(
    ("initial", "refined", "expected"),
    [
        (EARLY, LATE, "delays"),
        (EARLY, RISING, "delays"),
        (EARLY, EARLY, "does not delay"),
        (LATE, EARLY, "does not delay"),
        (RISING, LATE, "cannot tell"),
        (RISING, RISING, "cannot tell"),
    ],
)
def test_the_verdict_follows_the_curves(initial, refined, expected) -> None:
    (found,) = differences(made_up_runs(initial, refined))
    assert found.verdict == expected


def test_a_decline_that_luck_may_have_made_is_none() -> None:
    # `initial` is flat but for noise, and its last evaluation is below its best by a standard
    # error. The other falls from the start, so its onset is never later.
    flat, falling = (0.5, 0.5, 0.5, 0.5, 0.5, 0.49), (0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    runs = made_up_runs(flat, falling, noise=0.05)
    (initial, _) = condition_curves(runs)
    assert initial.onset_step is not None
    (found,) = differences(runs)
    assert found.delay_steps.high <= 0
    assert found.verdict == "cannot tell"


def test_seeds_that_disagree_leave_it_open() -> None:
    runs = [
        made_up_run(condition, seed, gold)
        for seed, refined in enumerate((LATE, EARLY, EARLY))
        for condition, gold in (("initial", EARLY), ("great_diverse_pairs", refined))
    ]
    (found,) = differences(runs)
    assert found.verdict == "cannot tell"
    assert found.delay_steps.low <= 0 < found.delay_steps.high


def test_the_figures_of_a_difference() -> None:
    (found,) = differences(made_up_runs(EARLY, LATE, noise=0.0))
    # Onsets 20 and 40; ends 0.40 and 0.50; losses 0.20 and 0.20.
    assert found.delay_steps == Interval(20.0, 20.0, 20.0)
    assert found.final_gold.value == pytest.approx(0.10)
    assert found.loss.value == pytest.approx(0.0)


def test_no_decline_counts_as_one_evaluation_after_the_last() -> None:
    (found,) = differences(made_up_runs(EARLY, RISING, noise=0.0))
    assert found.delay_steps.value == 60 - 20


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1, 5, "delays"), (0, 5, "cannot tell"), (-5, 0, "does not delay"), (-5, 1, "cannot tell")],
)
def test_the_bounds_of_the_verdict(low: float, high: float, expected: str) -> None:
    assert verdict(initial_declines=True, delay=Interval(0.0, low, high)) == expected
    assert verdict(initial_declines=False, delay=Interval(0.0, low, high)) == "cannot tell"
    of_two = verdict(initial_declines=True, delay=Interval(0.0, low, high), num_seeds=2)
    assert of_two == "cannot tell"


@pytest.mark.parametrize(
    ("initial", "refined", "words"),
    [
        (EARLY, LATE, "`great_diverse_pairs` delays the decline"),
        (EARLY, EARLY, "`great_diverse_pairs` does not delay the decline"),
        (RISING, LATE, "`great_diverse_pairs` can't be told to delay"),
    ],
)
def test_the_conclusion_says_what_the_figures_say(initial, refined, words: str) -> None:
    runs = made_up_runs(initial, refined)
    said = conclusion(condition_curves(runs), differences(runs))
    assert words in said
    assert ("nothing to delay" in said) == (initial is RISING)


def test_without_the_initial_condition_there_is_no_conclusion() -> None:
    runs = [made_up_run("great_pair", 0, EARLY)]
    assert "No conclusion" in conclusion(condition_curves(runs), differences(runs))


def test_intervals_hold_the_mean_and_shrink_with_no_spread() -> None:
    run = made_up_run("initial", 0, EARLY, noise=0.0, num_prompts=1)
    (curve,) = condition_curves([run])
    assert curve.low["gold"] == pytest.approx(curve.means["gold"])
    assert (curve.peak_step, curve.onset_step) == (10, 20)


def test_a_tie_is_half_a_win() -> None:
    # Pairs: (.5, .5) tie, (.5, .8) loss, (.9, .5) win, (.9, .8) win: 2.5 of 4.
    assert win_rate(np.array([0.5, 0.9]), np.array([0.5, 0.8])) == 0.625
