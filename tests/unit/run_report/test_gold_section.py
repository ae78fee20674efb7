"""What the report says of gold: hand-made curves whose findings are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rubric_rl.evaluation.overoptimisation import Curve, CurvePoint, Decline, Gold, analyse
from rubric_rl.run_report.gold_section import decline_words
from rubric_rl.run_report.page import report_html
from rubric_rl.run_report.read_run import read_run

from .run_folders import write_run

NUM_PROMPTS = 30


def decline(golds: Sequence[float], *, noise: float = 0.0) -> Decline:
    """Of gold at steps 0, 10, 20 and so on, with `noise` added to or taken from each prompt."""
    points = [
        CurvePoint(
            step=10 * number,
            proxy=0.1 * number,
            gold=Gold.of_prompts(
                {
                    f"p{i}": gold + noise * (-1) ** (i + number * (i // 2))
                    for i in range(NUM_PROMPTS)
                }
            ),
        )
        for number, gold in enumerate(golds)
    ]
    found = analyse(Curve(name="run", points=tuple(points)))
    assert found is not None
    return found


def test_a_confirmed_decline_names_peak_onset_and_drop() -> None:
    words = decline_words(decline([0.4, 0.6, 0.5, 0.45]))
    assert words == (
        "The run over-optimises its rubrics: gold peaked at 0.600 at step 10 and declines from "
        "step 20 on, to 0.450 at step 30, 0.150 under the peak (at least 0.150, 95%). The policy "
        "of step 10 is the best by gold."
    )


def test_one_low_evaluation_is_not_yet_a_decline() -> None:
    words = decline_words(decline([0.4, 0.6, 0.5]))
    assert words.startswith("Gold may be declining from step 20 on: it peaked at 0.600 at step 10")


def test_a_rise_and_a_single_evaluation_are_told_as_they_are() -> None:
    assert decline_words(decline([0.4, 0.6])).startswith("No decline of gold: the last evaluation")
    assert decline_words(decline([0.4])) == "Gold was evaluated once: 0.400 at step 0."


def test_a_fall_within_noise_is_no_decline() -> None:
    words = decline_words(decline([0.4, 0.6, 0.59], noise=0.3))
    assert words.startswith("No decline of gold")


def test_the_page_of_a_run_with_gold_has_the_section_and_others_do_not(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), "run")
    assert run.decline is None
    assert "Over-optimisation" not in report_html([run])
    with_gold = dataclasses.replace(run, decline=decline([0.4, 0.6, 0.5, 0.45]))
    page = report_html([with_gold])
    assert "The run over-optimises its rubrics" in page
    both = report_html([with_gold, dataclasses.replace(run, label="other")])
    assert "Gold, by one rule" in both
    assert ">0.600</td>" in both


def test_gold_is_read_out_of_the_run_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps=4, eval_every=2)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    golds = iter((0.5, 0.7, 0.3))
    lines = [
        f'{line[:-1]}, "eval/gold_mean": {next(golds)}, "eval/gold_ci95": 0.0196}}'
        if '"eval/reward_mean"' in line
        else line
        for line in lines
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = read_run(folder, "run").decline
    assert found is not None
    assert (found.peak.step, found.final.step) == (2, 4)
    assert found.onset is not None
    assert found.onset.step == 4
    # sqrt(2) x 0.01 x 1.645 = 0.0233 under 0.4.
    assert abs(found.final_drop.low - (0.4 - 0.02326)) < 1e-4
