"""`rubric-rl lab` with trainings that are made up: the plan, what is kept, what is written."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rubric_rl import cli
from rubric_rl.commands.lab import main, run_lab
from rubric_rl.config.compose import compose
from rubric_rl.errors import ConfigError, DataError, RunFolderError
from rubric_rl.lab import trainings
from rubric_rl.lab.plan import CONDITION_SOURCES, LabPlan, RunPlan, keep_setup
from rubric_rl.lab.prompts import questions
from rubric_rl.lab.small_policy import PolicySettings
from rubric_rl.observability.records import SampleRow, encode_row

GOOD = "you should keep a fixed bedtime because it trains your body ."
BAD = "drink some wine"


def plan_of(out: Path, *, conditions: tuple[str, ...] = ("initial",), steps: int = 4) -> LabPlan:
    return LabPlan(
        out=out,
        conditions=conditions,
        seeds=(0,),
        steps=steps,
        eval_every=2,
        parallel=2,
        policy=PolicySettings(),
    )


def row(prompt_id: str, index: int, step: int, text: str) -> SampleRow:
    return SampleRow(
        step=step,
        phase="eval",
        prompt_id=prompt_id,
        messages=(),
        completion=text,
        finish_reason="stop",
        criteria=(),
        reward=0.25 * index,
        coverage=1.0,
        advantage=None,
        sample_index=index,
        seed=0,
        policy_version=step,
        rubric_id="r",
        rubric_version=0,
        judge_id="rules",
    )


def write_run(plan: LabPlan, run: RunPlan) -> None:
    """A run folder in which the second answer of each prompt gets better at step 2."""
    folder = plan.run_dir(run)
    (folder / "samples").mkdir(parents=True)
    metrics = [
        {"step": step, "policy/kl_ref": 0.1 * step} | {"eval/reward_mean": 0.1} for step in range(5)
    ]
    del metrics[0]["policy/kl_ref"]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(m)}\n" for m in metrics))
    held_out = [q.prompt_id for q in questions() if q.split == "eval"]
    for step in plan.evaluated_steps:
        second = GOOD if step == 2 else BAD
        rows = [row(p, i, step, text) for p in held_out for i, text in enumerate((BAD, second))]
        lines = "".join(f"{encode_row(r)}\n" for r in rows)
        (folder / "samples" / f"eval_{step:06d}.jsonl").write_text(lines)


def no_policy(directory: Path, settings: PolicySettings) -> Path:
    return directory


async def made_up(plan: LabPlan, say: Callable[[str], None]) -> None:
    for run in plan.runs:
        assert plan.prompts(run).is_file(), "rubrics come before trainings"
        write_run(plan, run)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> LabPlan:
    plan = plan_of(tmp_path_factory.mktemp("lab"), conditions=("initial", "great_pair"))
    keep_setup(plan)
    assert run_lab(plan, prepare=no_policy, train=made_up) == 0
    return plan


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_everything_is_written(lab: LabPlan) -> None:
    names = {path.name for path in lab.out.iterdir()}
    assert names >= {
        "report.md", "curves.csv", "runs.csv", "differences.csv", "curves.png", "curves.svg",
        "by_kl.png", "by_kl.svg", "setup.json", "times.json",
    }  # fmt: skip
    text = (lab.out / "report.md").read_text()
    assert "initial" in text and "great_pair" in text and "minutes of this command's clock" in text


def test_kl_is_the_mean_since_the_last_evaluation_and_ties_are_of_the_proxy(lab: LabPlan) -> None:
    rows = table(lab.out / "runs.csv")[:3]
    # Steps 1 and 2 have 0.1 and 0.2, steps 3 and 4 have 0.3 and 0.4.
    assert [float(r["kl"]) for r in rows] == pytest.approx([0.0, 0.15, 0.35])
    assert {r["ties"] for r in rows} == {"0.5"}
    assert [float(r["proxy"]) for r in rows] == pytest.approx([0.125] * 3)
    assert rows[0]["run"] == "runs/initial_seed0"


def test_gold_and_its_win_rate_are_computed_afterwards(lab: LabPlan) -> None:
    start, peak, end = table(lab.out / "runs.csv")[:3]
    assert float(start["win"]) == float(end["win"]) == 0.5
    # The second answer now beats both of the start, the first ties with both.
    assert float(peak["win"]) == 0.75
    assert float(peak["gold"]) > float(start["gold"]) == float(end["gold"])


def test_what_is_complete_is_not_run_again(lab: LabPlan, monkeypatch) -> None:
    async def refuses(*_: object) -> None:
        raise AssertionError("a complete run was started")

    monkeypatch.setattr(trainings, "_train", refuses)
    asyncio.run(trainings.run_trainings(lab, print))


def test_a_run_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path), overrides=("learner.rate=1",))
    said = r"initial_seed0 not complete, exit code 2: error: learner.rate is not a known key"
    with pytest.raises(RunFolderError, match=said):
        asyncio.run(trainings.run_trainings(plan, lambda _: None))


def test_a_run_without_its_last_evaluation_is_not_complete(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (run,) = plan.runs
    assert not plan.is_done(run)
    write_run(plan, run)
    assert plan.is_done(run)
    metrics = plan.run_dir(run) / "metrics.jsonl"
    metrics.write_text("\n".join(metrics.read_text().splitlines()[:-1]) + "\n")
    assert not plan.is_done(run)


def test_the_same_folder_takes_no_other_settings_but_more_seeds(tmp_path: Path) -> None:
    keep_setup(plan_of(tmp_path))
    keep_setup(plan_of(tmp_path, conditions=("great_pair",)))
    with pytest.raises(DataError, match="steps: 4 there, 6 now"):
        keep_setup(plan_of(tmp_path, steps=6))


def test_a_dry_run_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lab"
    assert cli.main(["lab", "--out", str(out), "--dry-run", "--seeds", "4,7"]) == 0
    printed = capsys.readouterr().out
    assert "10 runs (5 conditions x 2 seeds), 0 of them complete" in printed
    assert "minutes on two idle cores" in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conditions", "initial,grate"], "--conditions grate: not known, take some of initial"),
        (["--seeds", "a"], "--seeds a: want whole numbers"),
        (["--steps", "0"], "--steps 0: want at least 1"),
        (["learner.rate=1"], "learner.rate is not a known key"),
    ],
)
def test_bad_arguments_are_told_at_once(tmp_path: Path, arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["--out", str(tmp_path / "lab"), *arguments])
    assert not (tmp_path / "lab").exists()


def test_the_runs_differ_in_their_proxy_and_seed_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, conditions=tuple(CONDITION_SOURCES))
    configs = [compose(plan.train_overrides(run)) for run in plan.runs]
    others = [c.model_dump(exclude={"run": {"name", "dir"}, "data": {"path"}}) for c in configs]
    assert all(other == others[0] for other in others)
    assert not any(c.refinement.enabled for c in configs)
