"""`rubric-rl doctor` on configurations that would start and on those that would not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubric_rl.cli import main

from ...tiny_llama import tiny_llama, tiny_tokenizer
from .conftest import ModelServer

BASE = ["doctor", "experiment=quickstart_cpu", "logging.wandb.mode=disabled"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A small model with a tokenizer, as overrides name it."""
    folder = tmp_path / "model"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return f"model.name_or_path={folder}"


def _lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Status by the name of the check."""
    lines = capsys.readouterr().out.splitlines()
    return {line[6:20].strip(): line[:5].strip() for line in lines if line[:5].strip().isalpha()}


def test_a_quickstart_would_start(model: str, capsys: pytest.CaptureFixture[str]):
    assert main([*BASE, model, "run.dir=runs/x", "--load-model"]) == 0
    found = _lines(capsys)
    for name in ("packages", "compiler", "data", "model", "weights", "W&B", "placement"):
        assert found[name] == "ok", name
    assert "number type" in found
    assert not Path("runs").exists()


def test_each_fault_is_a_line_and_the_exit_code(capsys: pytest.CaptureFixture[str]):
    Path("file").touch()
    overrides = [
        "model.name_or_path=/nowhere",
        "run.dir=file/x",
        "cluster.learner_cpus=1000",
        "data.max_train_prompts=null",
        "data.path=none.jsonl",
        "refinement=none",
    ]
    assert main([*BASE, *overrides]) == 2
    text = capsys.readouterr().out
    for line in (
        "fail  run folder     run.dir='file/x' can't be written",
        "fail  data           ",
        "fail  model          model.name_or_path='/nowhere' is not a directory",
        "fail  placement      ",
    ):
        assert line in text
    assert "4 fail" in text.splitlines()[-1]


def test_weights_that_cannot_be_loaded_fail(model: str, capsys: pytest.CaptureFixture[str]):
    Path("model/model.safetensors").write_bytes(b"cut")
    assert main([*BASE, model, "--load-model"]) == 2
    found = _lines(capsys)
    assert found["model"] == "ok" and found["weights"] == "fail"


def test_the_judges_endpoint_is_asked(
    model: str, model_server: ModelServer, capsys: pytest.CaptureFixture[str]
):
    assert main([*BASE, model, *model_server.overrides]) == 0
    found = _lines(capsys)
    assert found["judge"] == found["proposer"] == "ok"
    down = ["judge.llm.base_url=http://127.0.0.1:9/v1"]
    assert main([*BASE, model, *model_server.overrides, *down]) == 2
    assert "start the server or correct judge.llm.base_url" in capsys.readouterr().out


def test_a_dry_run_lists_the_checks(capsys: pytest.CaptureFixture[str]):
    assert main([*BASE, "model.name_or_path=/nowhere", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "compiler       builds a small extension" in text and "fail" not in text


def test_a_cluster_is_joined_where_one_is_named(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert main([*BASE, model]) == 2
    found = _lines(capsys)
    assert found["cluster"] == "fail" and "placement" not in found
