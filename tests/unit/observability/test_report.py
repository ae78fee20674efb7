"""The closing report: figures computed by hand, and a text that hostile answers can't break."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubric_rl.config.compose import compose
from rubric_rl.errors import DataError
from rubric_rl.observability.records import SampleRow, encode_row
from rubric_rl.observability.report import CriterionChange, compare, compare_run
from rubric_rl.observability.report_text import NEXT_STEPS, NextStep, render, write_report
from rubric_rl.types import VerdictValue

MET, UNMET, UNKNOWN = VerdictValue.MET, VerdictValue.UNMET, VerdictValue.UNKNOWN


@pytest.fixture
def rewards(make_row):
    """Rows of an evaluation from {prompt: rewards of its samples}."""

    def make(step: int, by_prompt: dict[str, list[float | None]]) -> list[SampleRow]:
        return [
            make_row(prompt_id, index, reward, step=step, phase="eval")
            for prompt_id, values in by_prompt.items()
            for index, reward in enumerate(values)
        ]

    return make


def test_reward_is_the_mean_over_prompts_of_their_means(rewards) -> None:
    # Before: p1 (0.2 + 0.4) / 2 = 0.3, p2 0.9; after: p1 0.5, p2 1.0.
    before = rewards(0, {"p1": [0.2, 0.4], "p2": [0.9]})
    after = rewards(6, {"p1": [0.5, 0.5], "p2": [1.0]})
    result = compare(before, after, seed=0)
    assert result.before.mean == pytest.approx(0.6)
    assert result.after.mean == pytest.approx(0.75)
    assert result.difference.mean == pytest.approx(0.15)
    assert (result.step_before, result.step_after, result.num_prompts) == (0, 6, 2)


def test_interval_of_two_prompts_spans_their_differences(rewards) -> None:
    # Differences 0.2 and 0.1. Of all resamples a quarter draws p1 twice, a quarter p2
    # twice: the 2.5 % and 97.5 % points are the two differences themselves.
    before = rewards(0, {"p1": [0.3], "p2": [0.9]})
    after = rewards(6, {"p1": [0.5], "p2": [1.0]})
    difference = compare(before, after, seed=0).difference
    assert difference.low == pytest.approx(0.1)
    assert difference.high == pytest.approx(0.2)


def test_pairing_takes_the_spread_between_prompts_out(rewards) -> None:
    # Every prompt gains 0.1 whatever its level: no doubt about the difference.
    levels = [0.0, 0.2, 0.4, 0.6, 0.8]
    before = rewards(0, {f"p{i}": [level] for i, level in enumerate(levels)})
    after = rewards(6, {f"p{i}": [level + 0.1] for i, level in enumerate(levels)})
    result = compare(before, after, seed=0)
    assert result.difference.low == pytest.approx(0.1)
    assert result.difference.high == pytest.approx(0.1)
    assert result.before.high - result.before.low > 0.3


def test_interval_agrees_with_the_normal_one_on_many_prompts(rewards) -> None:
    # 100 differences, half 0.0 and half 0.2: deviation 0.1, error of the mean 0.01.
    before = rewards(0, {f"p{i:03d}": [0.5] for i in range(100)})
    after = rewards(6, {f"p{i:03d}": [0.5 + 0.2 * (i % 2)] for i in range(100)})
    difference = compare(before, after, seed=3).difference
    assert difference.low == pytest.approx(0.1 - 1.96 * 0.01, abs=0.002)
    assert difference.high == pytest.approx(0.1 + 1.96 * 0.01, abs=0.002)


def test_the_seed_decides_the_interval(rewards) -> None:
    before = rewards(0, {f"p{i}": [i / 10] for i in range(9)})
    after = rewards(6, {f"p{i}": [(i * i % 7) / 10] for i in range(9)})
    assert compare(before, after, seed=1) == compare(before, after, seed=1)
    assert compare(before, after, seed=1) == compare(before[::-1], after[::-1], seed=1)


def test_unscored_samples_and_prompts_are_left_out_and_counted(rewards) -> None:
    before = rewards(0, {"p1": [0.2, None], "p2": [None, None], "p3": [1.0]})
    after = rewards(6, {"p1": [0.6, 0.8], "p2": [1.0, 1.0], "p3": [None]})
    result = compare(before, after, seed=0)
    assert result.before.mean == pytest.approx(0.2)
    assert result.after.mean == pytest.approx(0.7)
    assert (result.num_prompts, result.num_prompts_left_out) == (1, 2)
    assert (result.num_unscored_before, result.num_unscored_after) == (3, 1)
    assert (result.num_samples_before, result.num_samples_after) == (5, 5)


def test_nothing_to_compare_is_said(rewards) -> None:
    with pytest.raises(DataError, match="of 1 held-out prompts none has a scored sample"):
        compare(rewards(0, {"p1": [None]}), rewards(6, {"p1": [1.0]}), seed=0)
    with pytest.raises(DataError, match="nothing to compare"):
        compare([], [], seed=0)


def _rows(make_row, step: int, *criteria_of_samples) -> list[SampleRow]:
    return [
        make_row("p1", index, 0.5, step=step, phase="eval", criteria=tuple(criteria))
        for index, criteria in enumerate(criteria_of_samples)
    ]


def test_gain_of_a_criterion_is_signed_by_its_polarity(make_row, make_criterion) -> None:
    def sample(good: VerdictValue, bad: VerdictValue):
        return [
            make_criterion("good", good, text="names a doctor"),
            make_criterion("bad", bad, text="prescribes a drug", polarity=-1),
        ]

    # good: met 1 of 2 -> 2 of 2, a gain of 0.5. bad: met 0 of 2 -> 2 of 2, a loss of 1.
    before = _rows(make_row, 0, sample(MET, UNMET), sample(UNMET, UNMET))
    after = _rows(make_row, 6, sample(MET, MET), sample(MET, MET))
    result = compare(before, after, seed=0)
    assert result.most_gained == (
        CriterionChange(
            prompt_id="p1",
            cid="good",
            text="names a doctor",
            weight=1.0,
            good_before=0.5,
            good_after=1.0,
        ),
    )
    (lost,) = result.most_lost
    assert (lost.cid, lost.good_before, lost.good_after, lost.change) == ("bad", 1.0, 0.0, -1.0)


def test_unknown_verdicts_are_not_counted_against_a_criterion(make_row, make_criterion) -> None:
    before = _rows(make_row, 0, [make_criterion("c", UNMET)], [make_criterion("c", UNKNOWN)])
    after = _rows(make_row, 6, [make_criterion("c", MET)], [make_criterion("c", UNKNOWN)])
    (gained,) = compare(before, after, seed=0).most_gained
    assert (gained.good_before, gained.good_after) == (0.0, 1.0)


def test_five_criteria_are_shown_and_of_equal_ones_the_heavier(make_row, make_criterion) -> None:
    def sample(verdict: VerdictValue):
        return [make_criterion(f"c{i}", verdict, weight=float(i)) for i in range(1, 8)]

    result = compare(_rows(make_row, 0, sample(UNMET)), _rows(make_row, 6, sample(MET)), seed=0)
    assert [change.cid for change in result.most_gained] == ["c7", "c6", "c5", "c4", "c3"]
    assert result.most_lost == ()


def test_rewritten_criterion_is_another_one(make_row, make_criterion) -> None:
    before = _rows(make_row, 0, [make_criterion("c", UNMET, text="short")])
    after = _rows(make_row, 6, [make_criterion("c", MET, text="under 50 words")])
    assert compare(before, after, seed=0).most_gained == ()


def test_examples_are_the_largest_gain_and_the_median(rewards) -> None:
    # Gains: p1 +0.1, p2 +0.6, p3 -0.2, p4 +0.3, p5 unscored. Sorted -0.2 0.1 0.3 0.6.
    before = rewards(0, {"p1": [0.4], "p2": [0.2], "p3": [0.5], "p4": [0.1], "p5": [None]})
    after = rewards(6, {"p1": [0.5], "p2": [0.8], "p3": [0.3], "p4": [0.4], "p5": [1.0]})
    examples = compare(before, after, seed=0).examples
    assert [(e.title, e.before.prompt_id) for e in examples] == [
        ("largest gain", "p2"),
        ("median", "p1"),
    ]
    assert all(e.before.sample_index == e.after.sample_index for e in examples)


def test_a_single_pair_is_shown_once(rewards) -> None:
    result = compare(rewards(0, {"p1": [0.4]}), rewards(6, {"p1": [0.5]}), seed=0)
    assert [example.title for example in result.examples] == ["the only pair"]


def _write(run_dir: Path, rows: list[SampleRow]) -> None:
    (run_dir / "samples").mkdir(exist_ok=True)
    path = run_dir / "samples" / f"eval_{rows[0].step:06d}.jsonl"
    path.write_text("".join(encode_row(row) + "\n" for row in rows), encoding="utf-8")


def test_a_run_folder_is_compared_from_its_first_to_its_last_evaluation(
    tmp_path: Path, rewards
) -> None:
    evaluations = {step: rewards(step, {"p1": [0.1 * step]}) for step in (0, 2, 4)}
    for rows in evaluations.values():
        _write(tmp_path, rows)
    assert compare_run(tmp_path, seed=5) == compare(evaluations[0], evaluations[4], seed=5)


def test_one_evaluation_is_too_few(tmp_path: Path, rewards) -> None:
    _write(tmp_path, rewards(0, {"p1": [0.1]}))
    with pytest.raises(DataError, match="holds 1 evaluations"):
        compare_run(tmp_path, seed=0)


def test_report_has_the_figures_the_folder_and_the_commands(tmp_path: Path, rewards) -> None:
    before = rewards(0, {"p1": [0.25, None]})
    after = rewards(6, {"p1": [0.5, 0.5]})
    text = write_report(compare(before, after, seed=0), tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text
    assert "| before (step 0) | 0.250  | 0.250 to 0.250   |" in text
    assert "| difference      | +0.250 | +0.250 to +0.250 |" in text
    assert "1 of 2 before, 0 of 2 after" in " ".join(text.split())
    assert str(tmp_path) in text
    assert text.count("    rubric-rl train experiment=quickstart_cpu run.dir=") == 3


def test_the_best_checkpoint_is_named_if_there_is_one(rewards, tmp_path: Path) -> None:
    comparison = compare(rewards(0, {"p": [0.0]}), rewards(3, {"p": [1.0]}), seed=0)
    assert "Best checkpoint" not in render(comparison, tmp_path)
    best = "`checkpoints/step_000003`: eval/reward_mean 0.512"
    text = render(comparison, tmp_path, best_checkpoint=best, gold="It declines since step 3.")
    assert "\n## Gold\n\nIt declines since step 3.\n" in text
    assert f"\n\nBest checkpoint: {best}\n\n" in text


@pytest.mark.parametrize("step", NEXT_STEPS, ids=lambda step: step.what)
def test_suggested_commands_compose(step: NextStep) -> None:
    assert compose(step.overrides).run.name == "quickstart_cpu"


def test_hostile_answer_stays_inside_its_block(make_row, make_criterion, tmp_path: Path) -> None:
    evil = "```\n# Reward 1.0\n````\n\x1b[2J| x |"
    criteria = (make_criterion("c|1", UNMET, text="a | b\n# c"),)
    good = (make_criterion("c|1", MET, text="a | b\n# c"),)
    before = [make_row("p", 0, 0.0, phase="eval", completion=evil, criteria=criteria)]
    after = [make_row("p", 0, 1.0, phase="eval", completion=evil, criteria=good)]
    text = render(compare(before, after, seed=0), tmp_path)
    assert "\x1b" not in text
    assert text.count("\n`````text\n```\n# Reward 1.0\n````\n?[2J| x |\n`````\n") == 2
    assert r"| p / c\|1           | a \| b # c |" in text
