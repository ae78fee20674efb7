"""Agreement between judges: figures by hand, intervals, and what may be compared at all."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.errors import DataError
from rubric_rl.judging import agreement
from rubric_rl.judging.agreement import Pair
from rubric_rl.judging.comparison import (
    Graded,
    Label,
    label_pairs,
    one_judge,
    pairs_of,
    read_labels,
)
from rubric_rl.judging.graded_rows import GradedRow, GradedVerdict
from rubric_rl.judging.judge_card import make_card
from rubric_rl.judging.judge_card_html import card_html
from rubric_rl.types import FailureCause, JudgeUsage, VerdictValue

MET, UNMET, UNKNOWN = VerdictValue.MET, VerdictValue.UNMET, VerdictValue.UNKNOWN

# The judge says met 6 times of 10, the other side 7 times; 5 times both do.
COUNTS = (5, 1, 2, 2)


def _pair(judged: bool, truth: bool, prompt_id: str = "p", p: float | None = None) -> Pair:
    return Pair(prompt_id=prompt_id, judged=judged, truth=truth, probability=p)


# ----------------------------------------------------------------------------
# Figures


def test_accuracy_is_the_share_of_equal_verdicts() -> None:
    assert agreement.accuracy(COUNTS) == pytest.approx(7 / 10)


def test_macro_f1_is_the_mean_over_met_and_unmet() -> None:
    # met: 2*5 / (2*5 + 1 + 2) = 10/13; unmet: 2*2 / (2*2 + 1 + 2) = 4/7
    assert agreement.macro_f1(COUNTS) == pytest.approx((10 / 13 + 4 / 7) / 2)


def test_macro_f1_leaves_out_a_value_that_neither_side_gives() -> None:
    assert agreement.macro_f1((4, 0, 0, 0)) == 1.0
    # Here the other side gives "unmet" once and the judge never: its F1 is 0 and counts.
    assert agreement.macro_f1((3, 1, 0, 0)) == pytest.approx((6 / 7 + 0) / 2)


def test_kappa_takes_off_what_chance_would_give() -> None:
    # expected: 0.6 * 0.7 + 0.4 * 0.3 = 0.54
    assert agreement.kappa(COUNTS) == pytest.approx((0.7 - 0.54) / (1 - 0.54))


def test_kappa_of_independent_judges_is_zero_and_of_opposite_ones_minus_one() -> None:
    assert agreement.kappa((4, 4, 4, 4)) == 0.0
    assert agreement.kappa((0, 5, 5, 0)) == -1.0


def test_kappa_is_not_defined_when_both_sides_always_say_the_same_one_thing() -> None:
    assert agreement.kappa((7, 0, 0, 0)) is None
    assert agreement.kappa((0, 0, 0, 0)) is None


def test_flip_rate_and_shift_tell_how_much_and_which_way() -> None:
    assert agreement.flip_rate(COUNTS) == pytest.approx(3 / 10)
    assert agreement.met_shift(COUNTS) == pytest.approx(-1 / 10)


def test_ece_is_the_mean_gap_between_probability_and_outcome_within_bins() -> None:
    pairs = [
        _pair(True, True, p=0.95),  # bin 9: gap 0.05
        _pair(True, False, p=0.85),  # bin 8: gap 0.85
        _pair(False, False, p=0.15),  # bin 1: |0.15 + 0.10 - 1| = 0.75
        _pair(False, True, p=0.10),
        _pair(True, True),  # without a probability: not in it
    ]
    sums = agreement.totals(agreement.bins_by_prompt(pairs))
    assert agreement.ece(sums) == pytest.approx((0.05 + 0.85 + 0.75) / 4)


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    sums = agreement.totals(agreement.bins_by_prompt([_pair(True, True, p=1.0)]))
    assert sums[-3:] == [1.0, 1.0, 1.0]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_figures_are_symmetric_in_the_two_sides(outcomes: list[tuple[bool, bool]]) -> None:
    one = agreement.totals(agreement.confusion_by_prompt(_pair(a, b) for a, b in outcomes))
    two = agreement.totals(agreement.confusion_by_prompt(_pair(b, a) for a, b in outcomes))
    assert one == [two[0], two[2], two[1], two[3]]
    for figure in (agreement.accuracy, agreement.macro_f1, agreement.kappa, agreement.flip_rate):
        assert figure(one) == pytest.approx(figure(two))
    assert agreement.met_shift(one) == -agreement.met_shift(two)  # type: ignore[operator]


# ----------------------------------------------------------------------------
# Intervals


def _interval(pairs: list[Pair]) -> tuple[float | None, float | None, float | None]:
    by_prompt = agreement.confusion_by_prompt(pairs)
    (e,) = agreement.estimates(by_prompt, [agreement.accuracy], num=len(pairs), seed=0)
    return e.value, e.low, e.high


def test_an_interval_is_over_prompts_and_not_over_verdicts() -> None:
    # Two prompts, one all right and one all wrong: a resample of two has accuracy 0, 0.5 or 1
    # with probability 1/4, 1/2, 1/4, however many verdicts each prompt has.
    for verdicts in (1, 100):
        pairs = [_pair(True, True, "a"), _pair(True, False, "b")] * verdicts
        assert _interval(pairs) == (0.5, 0.0, 1.0)


def test_prompts_that_are_all_alike_leave_no_doubt() -> None:
    pairs = [_pair(True, truth, f"p{i}") for i in range(5) for truth in (True, True, True, False)]
    assert _interval(pairs) == (0.75, 0.75, 0.75)


def test_an_interval_has_the_width_that_the_binomial_gives() -> None:
    # 400 prompts of one verdict, half right: sd = sqrt(0.25 / 400) = 0.025, so +- 0.049.
    pairs = [_pair(True, i % 2 == 0, f"p{i}") for i in range(400)]
    value, low, high = _interval(pairs)
    assert value == 0.5
    assert low == pytest.approx(0.451, abs=0.006)
    assert high == pytest.approx(0.549, abs=0.006)


def test_one_prompt_alone_has_no_interval() -> None:
    assert _interval([_pair(True, True), _pair(True, False)]) == (0.5, None, None)


def test_a_figure_that_most_resamples_leave_undefined_has_no_interval() -> None:
    # Four prompts, and the figure needs them all: 4!/4^4 = 9 % of the resamples hold them.
    by_prompt = {name: [float(name == other) for other in "abcd"] for name in "abcd"}
    (some,) = agreement.estimates(
        by_prompt, [lambda sums: 1.0 if all(sums) else None], num=4, seed=0
    )
    assert dataclasses.astuple(some) == (1.0, None, None, 4)
    (none,) = agreement.estimates({"a": [1, 0, 0, 0]}, [agreement.kappa], num=1, seed=1)
    assert dataclasses.astuple(none) == (None, None, None, 1)


def test_intervals_are_the_same_for_the_same_seed_and_any_order_of_prompts() -> None:
    pairs = [_pair(True, i % 3 == 0, f"p{i}") for i in range(30)]
    assert _interval(pairs) == _interval(pairs[::-1])


# ----------------------------------------------------------------------------
# What may be compared


def _verdict(
    cid: str, value: VerdictValue, *, p: float | None = None, **changes: object
) -> GradedVerdict:
    verdict = GradedVerdict(
        cid=cid,
        text=f"Text of {cid}.",
        verdict=value,
        reason=f"on {cid}",
        cause=FailureCause.TIMEOUT if value is UNKNOWN else None,
        probability=p,
    )
    return dataclasses.replace(verdict, **changes)  # type: ignore[arg-type]


def _row(row_id: str, *verdicts: GradedVerdict, **changes: object) -> GradedRow:
    row = GradedRow(
        row_id=row_id,
        prompt_id=row_id.split("#")[0],
        content_hash="c",
        answer_hash=f"answer {row_id}",
        reward=None,
        coverage=1.0,
        gated_from=None,
        verdicts=verdicts,
        rubric_id="r",
        rubric_version=0,
        judge_id="small",
        template_hash="t",
        mode="all",
        usage=JudgeUsage(calls=1, cost_usd=0.03, saved_usd=0.01),
        latency_s=0.1,
    )
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def _graded(*rows: GradedRow, name: str = "a.jsonl") -> Graded:
    return one_judge(name, rows)


def test_an_unknown_on_either_side_is_neither_agreement_nor_disagreement() -> None:
    left = _row("p1#0", _verdict("c1", MET), _verdict("c2", UNKNOWN), _verdict("c3", MET))
    right = _row("p1#0", _verdict("c1", MET), _verdict("c2", MET), _verdict("c3", UNKNOWN))
    found = pairs_of(_graded(left), _graded(right))
    assert [(p.judged, p.truth) for p in found.pairs] == [(True, True)]
    assert (found.num_unknown, found.num_unpaired) == (2, 0)


def test_only_the_same_answer_and_the_same_words_make_a_pair() -> None:
    left = _graded(
        _row("p1#0", _verdict("c1", MET), _verdict("c2", MET)),
        _row("p1#1", _verdict("c1", MET)),
        _row("p1#2", _verdict("c1", MET)),
    )
    right = _graded(
        _row("p1#0", _verdict("c1", UNMET), _verdict("c2", MET, text="Reworded.")),
        _row("p1#1", _verdict("c1", MET), answer_hash="another answer"),
    )
    found = pairs_of(left, right)
    assert [(p.judged, p.truth) for p in found.pairs] == [(True, False)]
    assert found.num_unpaired == 3


def test_criteria_that_a_rule_decides_say_nothing_of_a_judge() -> None:
    row = _row("p1#0", _verdict("c1", MET), _verdict("c2", MET, by_rule=True))
    found = pairs_of(_graded(row), _graded(row))
    assert (len(found.pairs), found.num_unpaired) == (1, 0)


def test_a_file_of_several_judges_or_modes_is_refused() -> None:
    rows = [_row("p1#0", _verdict("c1", MET)), _row("p2#0", _verdict("c1", MET), mode="each")]
    with pytest.raises(DataError, match=r"a\.jsonl holds verdicts of 2 judges"):
        one_judge("a.jsonl", rows)
    with pytest.raises(DataError, match=r"0 judges \(rules alone\)"):
        one_judge("a.jsonl", [_row("p1#0", _verdict("c1", MET, by_rule=True))])


def test_rules_beside_the_judge_do_not_make_another_judge() -> None:
    both = _row(
        "p1#0",
        _verdict("c1", MET),
        _verdict("c2", MET, by_rule=True),
        judge_id="small+rules",
        mode="all+rules",
    )
    alone = _row("p2#0", _verdict("c1", MET, by_rule=True), judge_id="rules", mode="rules")
    graded = one_judge("a.jsonl", [both, alone, _row("p3#0", _verdict("c1", MET))])
    assert (graded.judge_id, graded.mode, len(list(graded.verdicts()))) == ("small", "all", 2)


# ----------------------------------------------------------------------------
# Labels


def _labels(tmp_path: Path, graded: Graded, *rows: dict[str, object]) -> list[Label]:
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_labels(path, graded)


def test_labels_name_an_answer_or_a_prompt_with_one_answer(tmp_path: Path) -> None:
    graded = _graded(_row("p1#0", _verdict("c1", MET)), _row("p2#0", _verdict("c1", MET)))
    labels = _labels(
        tmp_path,
        graded,
        {"id": "p1#0", "cid": "c1", "met": False},
        {"prompt_id": "p2", "cid": "c1", "met": 1},
    )
    assert [(label.row_id, label.met) for label in labels] == [("p1#0", False), ("p2#0", True)]


def test_each_of_several_labellers_makes_a_pair_of_their_own(tmp_path: Path) -> None:
    graded = _graded(_row("p1#0", _verdict("c1", MET), _verdict("c2", UNKNOWN)))
    labels = _labels(
        tmp_path,
        graded,
        {"id": "p1#0", "cid": "c1", "binary_labels": [True, False, None, True]},
        {"id": "p1#0", "cid": "c2", "met": True},
        {"id": "elsewhere", "cid": "c1", "met": True},
    )
    found = label_pairs(graded, labels)
    assert [pair.truth for pair in found.pairs] == [True, False, True]
    assert (found.num_unknown, found.num_unpaired) == (1, 0)


def test_every_problem_of_a_label_file_is_named_with_its_line(tmp_path: Path) -> None:
    graded = _graded(_row("p1#0", _verdict("c1", MET)), _row("p1#1", _verdict("c1", MET)))
    with pytest.raises(DataError) as caught:
        _labels(
            tmp_path,
            graded,
            {"id": "p1#0", "cid": "c1", "met": "yes"},
            {"prompt_id": "p1", "cid": "c1", "met": True},
            {"id": "p1#0", "met": True},
            {"id": "p1#0", "cid": "c1"},
        )
    message = str(caught.value)
    assert "line 1: met: got a string ('yes'), want true, false or null" in message
    assert "line 2: prompt_id 'p1' has 2 answers" in message
    assert "line 3: cid is missing" in message
    assert "line 4: want one of met and binary_labels" in message


# ----------------------------------------------------------------------------
# The card


def _file(name: str, values: str, **changes: object) -> Graded:
    """One answer of one criterion for each letter: m met, u unmet, - unknown."""
    rows = [
        _row(
            f"p{i}#0",
            _verdict("c1", {"m": MET, "u": UNMET, "-": UNKNOWN}[value], p=None),
            **changes,
        )
        for i, value in enumerate(values)
    ]
    return one_judge(name, rows)


def test_a_card_holds_the_figures_of_both_sides() -> None:
    card = make_card(_file("a", "mmmmmmuuu-m"), _file("b", "mmmmmummu--", judge_id="large"))
    # pairs: 5 both met, 1 only the judge, 2 only the other side, 1 both unmet; 2 unknown
    assert (
        card.judged_met_truth_met,
        card.judged_met_truth_unmet,
        card.judged_unmet_truth_met,
        card.judged_unmet_truth_unmet,
    ) == (5, 1, 2, 1)
    assert card.accuracy.value == pytest.approx(6 / 9)
    assert (card.num_pairs, card.num_prompts, card.num_left_out_unknown) == (9, 9, 2)
    assert card.judge.unknown_share.value == pytest.approx(1 / 11)
    assert card.judge.unknown_causes == {"timeout": 1}
    assert card.other is not None
    assert card.other.unknown_share.value == pytest.approx(2 / 11)
    # 11 answers at 0.03 paid and 0.01 saved, for 10 verdicts that are known
    assert card.judge.cost_per_verdict_usd.value == pytest.approx(0.44 / 10)
    assert [d.row_id for d in card.disagreements] == ["p5#0", "p6#0", "p7#0"]
    assert (card.calibration, card.repeat, card.modes) == (None, None, ())


def test_a_repeat_tells_flips_and_ignores_verdicts_from_a_cache() -> None:
    judge, again = _file("a", "mmmuu"), _file("a2", "mumu-")
    cached = dataclasses.replace(
        again,
        rows=(
            *again.rows[:3],
            dataclasses.replace(
                again.rows[3],
                verdicts=(dataclasses.replace(again.rows[3].verdicts[0], cached=True),),
            ),
            again.rows[4],
        ),
    )
    card = make_card(judge, judge, repeat=cached)
    assert card.repeat is not None
    assert card.repeat.flip_rate.value == pytest.approx(1 / 3)
    assert (card.repeat.flip_rate.num, card.repeat.num_cached) == (3, 1)


def test_a_repeat_that_is_wholly_from_a_cache_is_refused_with_what_to_do() -> None:
    row = _row("p1#0", _verdict("c1", MET, cached=True))
    with pytest.raises(DataError, match=r"judge\.cache\.enabled=false"):
        make_card(_file("a", "mm"), _file("b", "mm"), repeat=_graded(row, name="again"))


def test_a_repeat_of_another_judge_or_mode_is_refused() -> None:
    judge = _file("a", "mm")
    with pytest.raises(DataError, match="judged by 'large'"):
        make_card(judge, judge, repeat=_file("b", "mm", judge_id="large"))
    with pytest.raises(DataError, match="a repeat changes nothing"):
        make_card(judge, judge, repeat=_file("b", "mm", mode="each"))


def test_modes_are_compared_two_by_two() -> None:
    files = [
        _file("a", "mmmm"),
        _file("c", "mmmu", mode="chunk:4"),
        _file("e", "muuu", mode="each"),
    ]
    card = make_card(files[0], files[0], modes=files[1:])
    assert [(d.left, d.right) for d in card.modes] == list(
        itertools.combinations(["all (a)", "chunk:4 (c)", "each (e)"], 2)
    )
    assert [d.flip_rate.value for d in card.modes] == [0.25, 0.75, 0.5]
    assert [d.met_shift.value for d in card.modes] == [0.25, 0.75, 0.5]


def test_calibration_is_against_the_other_side() -> None:
    judge = _graded(
        _row("p1#0", _verdict("c1", MET, p=0.9)), _row("p2#0", _verdict("c1", MET, p=0.7))
    )
    card = make_card(
        judge, ("labels", [Label(row_id=f"p{i}#0", cid="c1", met=True) for i in (1, 2)])
    )
    assert card.calibration is not None
    assert card.calibration.ece.value == pytest.approx((0.1 + 0.3) / 2)
    assert [(b.low, b.num) for b in card.calibration.bins if b.num] == [(0.7, 1), (0.9, 1)]
    assert (card.labels, card.other) == ("labels", None)


def test_nothing_in_common_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match="2 verdicts have no counterpart, 0 are unknown"):
        make_card(_file("a", "mm"), _graded(_row("q#0", _verdict("c1", MET)), name="b"))


def test_the_page_loads_nothing_and_runs_nothing_that_a_model_wrote() -> None:
    hostile = '<script src="http://evil/x.js">alert(1)</script>\x1b[2J'
    judge = _graded(
        _row("p1#0", _verdict("c1", MET, reason=hostile, text=hostile)),
        _row("p2#0", _verdict("c1", MET)),
        name="<b>a</b>.jsonl",
    )
    other = [Label(row_id="p1#0", cid="c1", met=False), Label(row_id="p2#0", cid="c1", met=True)]
    page = card_html(make_card(judge, ("<i>l</i>", other), repeat=judge, modes=[judge]))
    assert "<script" not in page
    assert "&lt;script src=&quot;http://evil/x.js&quot;&gt;" in page
    assert "\x1b" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    for word in ("<link", "<img", "@import", "url(", "onload"):
        assert word not in page
