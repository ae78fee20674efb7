"""What is a run, what is left of a damaged one, and which examples are the most changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rubric_rl.errors import DataError
from rubric_rl.run_report.comparison import differing_settings, first_last_peak
from rubric_rl.run_report.examples import most_changed, paired
from rubric_rl.run_report.read_run import labels, read_run, read_runs
from rubric_rl.run_report.records import Point
from rubric_rl.run_report.rubric_section import accepted_changes, refusal_kinds

from .run_folders import MET, UNMET, criterion_row, decided, held_out_row, write_run


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "pristine")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def test_a_whole_run_is_read_without_a_note(folder: Path) -> None:
    run = read_run(folder, "run")
    assert run.notes == ()
    assert run.refined_at == (2,)
    assert [line.step for line in run.steps] == [0, 1, 2, 3, 4]
    assert run.revisions is not None and list(run.revisions) == ["h1", "h2", "h3", "h4"]
    assert run.checkpoints == (("4", "eval/reward_mean 0.5000", "complete"),)


def test_points_carry_their_intervals(folder: Path) -> None:
    run = read_run(folder, "run")
    assert run.points("eval/reward_mean") == (
        Point(step=0, value=0.3, half_width=0.05),
        Point(step=2, value=0.4, half_width=0.05),
        Point(step=4, value=0.5, half_width=0.05),
    )
    # Prompts' means are 0.1 apart: deviation sqrt(0.05 / 3), over sqrt(4), times 1.96.
    (first, *_) = run.points("eval/anchor_reward_mean")
    assert first.half_width == pytest.approx(1.96 * (0.05 / 3) ** 0.5 / 2)
    assert run.points("reward/mean")[0].half_width is None


def test_a_gold_curve_has_its_interval(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "time": 1, "eval/gold_mean": 0.6, "eval/gold_ci95": 0.1}\n')
    run = read_run(folder, "run")
    assert run.points("eval/gold_mean") == (Point(step=5, value=0.6, half_width=0.1),)


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl"])
def test_a_folder_without_its_files_is_no_run(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(DataError, match=f"not the folder of a run that has begun: .*{missing}"):
        read_run(folder, "run")


def test_a_folder_of_runs_is_refused_with_their_names(folder: Path) -> None:
    with pytest.raises(DataError, match=rf"runs in it: {folder}"):
        read_run(folder.parent, "run")


def test_a_run_that_has_logged_nothing_is_refused(folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="holds no step yet"):
        read_run(folder, "run")


def test_a_half_written_last_line_is_left_out_and_noted(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run = read_run(folder, "run")
    assert run.steps[-1].step == 3
    assert "last line of metrics.jsonl is half written" in run.notes[0]


@pytest.mark.parametrize("line", ["{", "[]", '{"step": 1}', '{"step": 1, "time": 2, "a": NaN}'])
def test_a_damaged_line_before_the_last_is_named(folder: Path, line: str) -> None:
    path = folder / "metrics.jsonl"
    path.write_text(f"{line}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1: not a step's metrics"):
        read_run(folder, "run")


def test_a_cut_configuration_is_named(folder: Path) -> None:
    (folder / "config.yaml").write_text("run: {name: x", encoding="utf-8")
    with pytest.raises(DataError, match=r"config\.yaml' can't be read"):
        read_run(folder, "run")


def test_other_damage_is_a_note_and_the_rest_is_read(folder: Path) -> None:
    samples = folder / "samples" / "eval_000004.jsonl"
    samples.write_bytes(samples.read_bytes()[:-20])
    store = folder / "rubrics" / "store.jsonl"
    store.write_text(store.read_text(encoding="utf-8").replace("dose", "pill"), encoding="utf-8")
    (folder / "environment.json").unlink()
    run = read_run(folder, "run")
    assert run.comparison is None and run.revisions is None and run.environment == {}
    assert run.points("eval/anchor_reward_mean")[-1].half_width is None
    told = "\n".join(run.notes)
    assert "eval_000004.jsonl, line 4" in told
    assert "The rubric store can't be read" in told and "environment.json" in told
    assert run.steps[-1].step == 4


def test_a_half_written_revision_is_passed_over(folder: Path) -> None:
    store = folder / "rubrics" / "store.jsonl"
    content = store.read_bytes()
    store.write_bytes(content[:-10])
    run = read_run(folder, "run")
    assert run.revisions is not None
    assert [len(history) for history in run.revisions.values()] == [2, 1, 1, 1]
    assert store.read_bytes() == content[:-10], "a report changes nothing"


def test_a_run_given_twice_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="given twice"):
        read_runs([folder, folder / ".." / folder.name])


def test_labels_are_short_and_unique() -> None:
    assert labels([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert labels([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]


# ----------------------------------------------------------------------------
# Examples


def test_the_largest_gains_come_before_the_largest_losses() -> None:
    before = [held_out_row(f"p{i}", 0, 0.5) for i in range(8)]
    gains = [0.1, 0.4, -0.2, 0.0, 0.3, -0.4, 0.2, -0.1]
    after = [held_out_row(f"p{i}", 6, 0.5 + gain) for i, gain in enumerate(gains)]
    found = most_changed(before, after)
    assert [(e.before.prompt_id, round(e.gain, 9)) for e in found] == [
        ("p1", 0.4),
        ("p4", 0.3),
        ("p6", 0.2),
        ("p5", -0.4),
        ("p2", -0.2),
    ]


def test_a_prompt_gives_its_most_changed_sample_alone() -> None:
    before = [held_out_row("p", 0, 0.5, sample_index=i) for i in range(3)]
    after = [held_out_row("p", 6, r, sample_index=i) for i, r in enumerate((0.6, 0.1, 0.8))]
    (example,) = most_changed(before, after)
    assert (example.before.sample_index, round(example.gain, 9)) == (1, -0.4)


def test_the_first_rubrics_decide_where_they_are_known() -> None:
    # Under the rubrics in force it fell, under those of the beginning it rose.
    before, after = held_out_row("p", 0, 0.5), held_out_row("p", 6, 0.3, anchor=0.75)
    (example,) = most_changed([before], [after])
    assert example.gain == 0.25


def test_unscored_and_unpaired_samples_are_no_example() -> None:
    before = [held_out_row("p", 0, None), held_out_row("q", 0, 0.5)]
    after = [held_out_row("p", 6, 0.5), held_out_row("r", 6, 0.9)]
    assert most_changed(before, after) == ()


def test_criteria_are_paired_by_id() -> None:
    a, b = criterion_row("a", UNMET, "names a doctor"), criterion_row("b", MET, "is short")
    other_a, c = criterion_row("a", MET, "names a nurse"), criterion_row("c", UNMET, "says when")
    assert paired([a, b], [other_a, c]) == ((a, other_a), (b, None), (None, c))


# ----------------------------------------------------------------------------
# Rubrics, comparison


def test_a_change_of_a_rubric_knows_what_it_was_made_from(folder: Path) -> None:
    run = read_run(folder, "run")
    assert run.revisions is not None
    ((revision, parent),) = accepted_changes(run.revisions["h1"])
    assert revision.version == 1
    assert [(cid, c.text[:12]) for cid, c in parent.items()] == [
        ("c1", "Names a doct"),
        ("c2", "Names a dose"),
    ]
    assert accepted_changes(run.revisions["h2"]) == []


def test_refusals_are_counted_by_kind() -> None:
    refused = [decided(f"h{n}", "step 2", "", f"{n} of 6 pairs are tied") for n in (1, 2)]
    assert refusal_kinds(refused) == [("N of N pairs are tied", 2)]


def test_peak_is_the_earliest_of_the_highest() -> None:
    points = [Point(step=s, value=v) for s, v in [(0, 0.1), (2, 0.7), (4, 0.7), (6, 0.3)]]
    assert first_last_peak(points) == ["0.100", "0.300", "+0.200", "0.700", "2", "0.400"]


def test_settings_that_differ_are_found_also_where_one_is_missing(
    folder: Path, pristine: Path
) -> None:
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    text = text.replace("kl_coef: 0.01", "kl_coef: 0.1").replace("  name: quickstart", "  nam: q")
    config.write_text(f"{text}added: {{key: 1}}\n", encoding="utf-8")
    runs = read_runs([pristine, folder])
    assert set(differing_settings(runs)) == {"algorithm.kl_coef", "run.nam", "added.key"}
