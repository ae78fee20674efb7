"""Rubrics and checkpoints as W&B artifacts, read from what W&B writes offline."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.config.schema import Config, WandbConfig
from rubric_rl.observability import wandb_artifacts
from rubric_rl.observability.artifacts import CheckpointMade, RubricsInForce
from rubric_rl.observability.wandb_artifacts import WandbArtifacts
from rubric_rl.observability.wandb_sink import WandbSink
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Criterion, Rubric

from .wandb_records import records, run_file

pytestmark = pytest.mark.usefixtures("wandb_apart")


def rubrics(version: int, *texts: str) -> RubricSet:
    criteria = tuple(
        Criterion(cid=f"c{i}", text=text, weight=1.0, polarity=1) for i, text in enumerate(texts)
    )
    return RubricSet(
        version=version, rubrics=(Rubric(prompt_id="p1", version=version, criteria=criteria),)
    )


V0 = RubricsInForce(step=0, rubrics=rubrics(0, "Names a dose."))
V1 = RubricsInForce(step=6, rubrics=rubrics(1, "Names a dose.", "Names a doctor."))


def checkpoint(folder: Path, step: int = 6) -> CheckpointMade:
    """A folder with a manifest, and one file in a folder of its own."""
    path = folder / "checkpoints" / f"step_{step:06d}"
    (path / "learner").mkdir(parents=True)
    (path / "manifest.json").write_text(f'{{"step": {step}}}')
    (path / "learner" / "model 0.pt").write_text("weights")
    return CheckpointMade(
        step=step,
        path=path,
        rubric_version=1,
        rubric_hash="h1",
        metric="eval/reward_mean",
        value=0.75,
    )


def open_sink(run_dir: Path, **settings: str) -> WandbSink:
    values: dict[str, Any] = {name: {} for name in Config.model_fields}
    values |= {
        "run": {"dir": str(run_dir)},
        "model": {"name_or_path": "m"},
        "data": {"path": "d"},
        "logging": {"wandb": {"mode": "offline", **settings}},
    }
    return WandbSink(Config.model_validate(values), run_dir, "abc123", None)


def logged(run_dir: Path) -> list[Any]:
    """Artifacts of the run, in order; tables that W&B makes artifacts of are not there."""
    (folder,) = run_dir.glob("wandb/offline-run-*")
    return [r.artifact for r in records(run_file(folder)) if r.HasField("artifact")]


def contents(artifact: Any) -> dict[str, Any]:
    return {entry.path: entry for entry in artifact.manifest.contents}


# ----------------------------------------------------------------------------
# What W&B writes


def test_each_version_of_the_rubrics_is_an_artifact_that_names_the_one_before(
    tmp_path: Path,
) -> None:
    sink = open_sink(tmp_path)
    for made in (V0, V0, V1):  # said again it is the same
        sink.artifacts.rubrics(made)
    sink.close()
    first, second = logged(tmp_path)
    assert (first.name, first.type) == (second.name, second.type) == ("rubrics-abc123", "rubrics")
    assert ["version-0" in first.aliases, "version-1" in second.aliases] == [True, True]
    assert json.loads(first.metadata) == {
        "run_id": "abc123",
        "step": 0,
        "version": 0,
        "content_hash": V0.rubrics.content_hash,
        "num_rubrics": 1,
        "num_criteria": 1,
    }
    assert json.loads(second.metadata) == {
        "run_id": "abc123",
        "step": 6,
        "version": 1,
        "content_hash": V1.rubrics.content_hash,
        "num_rubrics": 1,
        "num_criteria": 2,
        "parent_version": 0,
        "parent_content_hash": V0.rubrics.content_hash,
    }
    staged = Path(contents(second)["rubrics.jsonl"].local_path)
    assert staged.is_relative_to(tmp_path)  # all that a run writes is in its folder
    assert RubricSet.read(staged) == V1.rubrics
    assert sink.num_failures == 0


def test_a_checkpoint_is_its_manifest_and_where_its_files_are(tmp_path: Path) -> None:
    sink = open_sink(tmp_path)
    made = checkpoint(tmp_path)
    for _ in range(2):  # a checkpoint that stands is announced again at the end
        sink.artifacts.checkpoint(made)
    sink.close()
    (artifact,) = logged(tmp_path)
    assert (artifact.name, artifact.type) == ("checkpoint-abc123", "checkpoint")
    assert "step-6" in artifact.aliases
    assert json.loads(artifact.metadata) == {
        "run_id": "abc123",
        "step": 6,
        "rubric_version": 1,
        "rubric_content_hash": "h1",
        "path": str(made.path),
        "eval/reward_mean": 0.75,
    }
    entries = contents(artifact)
    weights = entries["files/learner/model 0.pt"]
    assert (weights.ref, weights.local_path) == (f"{made.path.as_uri()}/learner/model 0.pt", "")
    assert Path(entries["manifest.json"].local_path).read_text() == '{"step": 6}'


def test_a_checkpoint_to_be_uploaded_may_be_deleted_once_it_was_announced(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, checkpoint_artifacts="upload")
    made = checkpoint(tmp_path)
    sink.artifacts.checkpoint(made)
    (made.path / "learner" / "model 0.pt").unlink()
    sink.close()
    (artifact,) = logged(tmp_path)
    assert sorted(contents(artifact)) == ["learner/model 0.pt", "manifest.json"]
    assert Path(contents(artifact)["learner/model 0.pt"].local_path).read_text() == "weights"
    assert sink.num_failures == 0


def test_artifacts_that_are_not_wanted_are_not_made(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, rubric_artifacts="false", checkpoint_artifacts="none")
    sink.artifacts.rubrics(V0)
    sink.artifacts.checkpoint(checkpoint(tmp_path))
    sink.close()
    assert logged(tmp_path) == []


def test_a_checkpoint_that_cannot_be_read_ends_artifacts_and_not_the_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make_record
) -> None:
    sink = open_sink(tmp_path)
    made = checkpoint(tmp_path)
    (made.path / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING, logger="rubric_rl"):
        sink.artifacts.checkpoint(made)
        sink.artifacts.rubrics(V0)
        sink.log(make_record(7, reward__mean=0.5))
        assert sink.is_active
        sink.close()
    assert logged(tmp_path) == []
    assert sink.num_failures == 1
    (warning,) = [r.getMessage() for r in caplog.records if r.name.startswith("rubric_rl.")]
    assert warning.startswith("W&B artifacts failed and are switched off: ")


# ----------------------------------------------------------------------------
# Online, where W&B's calls wait for the network


class FakeLogged:
    def __init__(self, name: str, events: list[str], answers: threading.Event) -> None:
        self.name, self._events, self._answers = name, events, answers

    def wait(self, timeout: int) -> None:
        if not self._answers.wait(timeout):
            raise TimeoutError(f"{self.name} was not taken in {timeout} s")
        self._events.append(f"{self.name} is there")


class FakeRun:
    """As much of an online run as artifacts need."""

    offline = False

    def __init__(self) -> None:
        self.events: list[str] = []
        self.answers = threading.Event()
        self.answers.set()

    def log_artifact(self, artifact: Any, aliases: list[str]) -> FakeLogged:
        self.events.append(f"log {aliases[0]}")
        return FakeLogged(aliases[0], self.events, self.answers)

    def use_artifact(self, artifact: FakeLogged) -> None:
        self.events.append(f"use {artifact.name}")


def test_online_a_run_uses_the_version_before_it_logs_the_next() -> None:
    run = FakeRun()
    artifacts = WandbArtifacts(run, "abc123", WandbConfig())  # type: ignore[arg-type]
    for made in (V0, V1):
        artifacts.rubrics(made)
    artifacts.close()
    assert run.events == [
        "log version-0",
        "version-0 is there",
        "use version-0",
        "log version-1",
        "version-1 is there",
    ]
    assert artifacts.num_failures == 0


def test_a_network_that_does_not_answer_holds_up_neither_the_run_nor_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_artifacts, "_CLOSE_TIMEOUT_S", 0.2)
    run = FakeRun()
    run.answers.clear()
    artifacts = WandbArtifacts(run, "abc123", WandbConfig())  # type: ignore[arg-type]
    for made in (V0, V1):
        artifacts.rubrics(made)  # returns at once
    artifacts.close()
    assert artifacts.num_failures == 1
    assert "switched off: no answer in 0 s" in caplog.text
    run.answers.set()  # the thread is let go, and does nothing more
    artifacts._thread.join(10)
    assert run.events == ["log version-0", "version-0 is there"]
