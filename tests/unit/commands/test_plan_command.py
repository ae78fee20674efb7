"""`rubric-rl plan`: what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rubric_rl.cli import main
from rubric_rl.commands import plan_inputs
from rubric_rl.observability import machine

PAPER = ["plan", "experiment=paper_health", "run.dir=runs/x", "data.path=nowhere.jsonl"]
EIGHT_H100 = ["--gpus-per-node", "8", "--gpu", "h100"]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_the_paper_on_a_described_node(capsys: pytest.CaptureFixture[str]):
    assert main([*PAPER, *EIGHT_H100]) == 0
    text = capsys.readouterr().out
    assert "paper_health on 1 x node (8 h100 of 79.1 GiB, 64 CPUs)" in text
    assert "learner 7, rollout 7" in text
    assert "steps: 106, each 96 prompts x 16 samples = 1536 samples" in text
    assert "'nowhere.jsonl' is not there: sizes of the paper" in text
    # Two kept, one that did best, and one being written; float32 weights and two moments.
    assert "disk: 4 checkpoints at once x 91.5 GiB (12 B a parameter) = 366 GiB" in text
    assert "time of a step:" in text and "flop_utilization=0.4" in text
    assert text.splitlines()[-1].startswith("it fits:")


def test_what_cannot_fit_is_an_error_after_the_figures(capsys: pytest.CaptureFixture[str]):
    assert main([*PAPER, "--gpus-per-node", "4", "--gpu", "l4"]) == 2
    out, err = capsys.readouterr()
    assert "learner rank, forward and backward pass" in out and "it fits" not in out
    assert "8 shared bundles x 1 GPU = 8 GPUs, the cluster has 4" in err
    assert "a GPU has 22" in err


def test_what_is_given_counts(capsys: pytest.CaptureFixture[str]):
    given = ["--train-prompts", "96", "--eval-prompts", "0", "--completion-tokens", "100"]
    assert main([*PAPER, *EIGHT_H100, *given, "--assume", "judge_call_s=3"]) == 0
    text = capsys.readouterr().out
    # Two epochs of one step, no evaluation.
    assert "steps: 2, each" in text and "in 2 steps and 0 evaluations" in text
    assert "1536 x 100" in text and "x 3 s /" in text


def test_the_quickstart_is_planned_from_its_own_prompts(capsys: pytest.CaptureFixture[str]):
    command = ["plan", "experiment=quickstart_cpu", "run.dir=runs/x"]
    assert main([*command, "--cpus", "2", "--memory-gib", "24"]) == 0
    text = capsys.readouterr().out
    assert "134,515,008 parameters" in text
    assert "prompts: 24 training, 16 held out (builtin:quickstart" in text
    assert "judge calls: none, criteria are checked by rules" in text
    assert main([*command, "--cpus", "2", "--memory-gib", "4"]) == 2
    assert "use a smaller model" in capsys.readouterr().err


def test_a_file_of_prompts_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {
            "id": f"p{number}",
            "domain": "x",
            "messages": [{"role": "user", "content": "word " * 70}],
            "rubric": {"criteria": [{"id": "c1", "text": "Is kind.", "weight": 1}]},
        }
        for number in range(3)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["plan", *PAPER[1:3], f"data.path={path}", "judge.llm.mode=each", *EIGHT_H100]) == 0
    text = capsys.readouterr().out
    assert "prompts: 3 training, 0 held out" in text
    # 350 characters at 3.5 a token, and 16 of the chat template.
    assert "prompts have 116" in text
    assert "judge calls of a sample (gpt-4.1-mini, mode each): 1," in text


def test_without_a_cluster_this_machine_is_planned_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    listing = "NVIDIA H100 80GB HBM3, 81559\n" * 8
    monkeypatch.setattr(machine, "_driver", lambda: listing)
    main(PAPER)
    assert "8 h100 of 79.1 GiB" in capsys.readouterr().out
    monkeypatch.setattr(machine, "_driver", lambda: "")
    assert main(PAPER) == 2
    out, err = capsys.readouterr()
    assert "describe another with --gpu" in out and "the cluster has 0" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h900"], "--gpu 'h900' is not known: choose a100"),
        (["--gpus-per-node", "8"], "say which, with --gpu or --gpu-memory-gib"),
        (["--nodes", "2"], "a node without GPUs needs --cpus"),
        ([*EIGHT_H100, "--assume", "speed=3"], "--assume 'speed=3': there is flop_utilization"),
        ([*EIGHT_H100, "--assume", "link_gbs=-3"], "want a number above 0"),
        ([*EIGHT_H100, "--model-config", "no.json"], "'no.json' can't be read"),
    ],
)
def test_a_wrong_description_is_refused(words, message, capsys: pytest.CaptureFixture[str]):
    assert main([*PAPER, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_models_own_config_is_read(tmp_path: Path):
    path = tmp_path / "config.json"
    sizes = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "intermediate_size": 10,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    path.write_text(json.dumps(sizes), encoding="utf-8")
    shape = plan_inputs.find_shape(str(tmp_path), None)
    assert shape == plan_inputs.find_shape("Qwen/Qwen3-8B", path)
    assert shape.num_kv_heads == 2 and shape.head_dim == 4


def test_a_cluster_that_does_not_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert main(PAPER) == 2
    assert "can't be joined" in capsys.readouterr().err
