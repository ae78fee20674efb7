"""`rubric-rl sft` and `reward-model` before anything starts: what is read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.commands.judge import main as judge
from rubric_rl.commands.reward_model import main as reward_model
from rubric_rl.commands.sft import main as sft
from rubric_rl.errors import ConfigError, DataError, ModelError
from rubric_rl.judging.graded_rows import read_graded
from rubric_rl.train import main as train

from ...tiny_llama import tiny_tokenizer
from .conftest import ModelServer


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and a configuration: enough for whatever comes before the weights."""
    directory = tmp_path_factory.mktemp("model")
    tiny_tokenizer().save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four prompts without rubrics, with two answers of each of two models."""
    write(tmp_path / "prompts.jsonl", [{"id": f"p{i}", "prompt": f"Why {i}?"} for i in range(4)])
    worth = {("weak", 0): 0.1, ("weak", 1): 0.2, ("great", 0): 0.8, ("great", 1): 0.9}
    pool = [
        {"prompt_id": f"p{i}", "source": s, "index": j, "text": f"{s} {j}", "preference": value}
        for i in range(4)
        for (s, j), value in worth.items()
    ]
    write(tmp_path / "pool.jsonl", pool)
    return tmp_path


def settings(folder: Path, model_dir: Path, section: str) -> list[str]:
    return [
        f"{section}.path={folder / 'pool.jsonl'}",
        f"{section}.max_tokens=200",
        f"{section}.eval_frac=0.25",
        f"data.path={folder / 'prompts.jsonl'}",
        f"model.name_or_path={model_dir}",
        f"run.dir={folder / 'run'}",
        "--dry-run",
    ]


def test_sft_says_what_it_would_learn(folder: Path, model_dir: Path, capsys):
    common = settings(folder, model_dir, "sft")
    assert sft([*common, "sft.sources=[great]", "sft.top_k=1", "sft.rank_by=preference"]) == 0
    out = capsys.readouterr().out
    # "great 1" has 7 characters, a token each, and the end of the turn.
    assert "3 training and 1 held-out answers, 24 answer tokens" in out
    assert "not among the best 4" in out
    assert "1 learner rank x 1 CPU" in out
    assert not (folder / "run").exists()


def test_sft_takes_conversations(folder: Path, model_dir: Path, capsys):
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    path = write(folder / "chats.jsonl", [{"messages": turns}])
    assert sft([*settings(folder, model_dir, "sft"), f"sft.path={path}"]) == 0
    assert "1 training and 0 held-out answers, 4 answer tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("all", "3 training and 1 held-out pairs (all)"),
        ("on_policy", "3 training and 1 held-out pairs (on_policy)"),
        ("both", "6 training and 2 held-out pairs (both)"),
    ],
)
def test_reward_model_says_which_pairs_it_drew(
    folder: Path, model_dir: Path, capsys, use: str, expected: str
):
    kinds = ["bradley_terry.on_policy=[weak]", "bradley_terry.off_policy=[great]"]
    common = settings(folder, model_dir, "bradley_terry")
    assert reward_model([*common, *kinds, f"bradley_terry.use={use}"]) == 0
    assert expected in capsys.readouterr().out


def test_pairs_of_a_file_are_taken_as_they_are(folder: Path, model_dir: Path, capsys):
    pairs = [{"prompt": f"Why {i}?", "chosen": "a", "rejected": "b"} for i in range(4)]
    path = write(folder / "pairs.jsonl", pairs)
    common = settings(folder, model_dir, "bradley_terry")
    assert reward_model([*common, f"bradley_terry.path={path}"]) == 0
    assert "3 training and 1 held-out pairs" in capsys.readouterr().out
    write(path, [*pairs, {"prompt": "Why?", "chosen": "a"}])
    with pytest.raises(DataError, match="line 5: rejected: want the text"):
        reward_model([*common, f"bradley_terry.path={path}"])


def test_rewards_of_a_judge_rank_answers_and_order_pairs(
    folder: Path, model_dir: Path, capsys, model_server: ModelServer
):
    """The rubric prefers the weak model, which the pool's labels don't."""
    rule = {"rule": "contains_any", "terms": ["weak 0"]}
    rows = [
        {
            "id": f"p{i}",
            "domain": "d",
            "messages": [{"role": "user", "content": f"Why {i}?"}],
            "rubric": {"criteria": [{"id": "c", "text": "t", "weight": 1, "rule": rule}]},
        }
        for i in range(4)
    ]
    prompts = write(folder / "rubrics.jsonl", rows)
    pool = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
    answers = [{"prompt_id": one["prompt_id"], "response": one["text"]} for one in pool]
    graded = folder / "graded.jsonl"
    path = write(folder / "answers.jsonl", answers)
    assert judge([str(path), "--rubrics", str(prompts), "--out", str(graded)]) == 0
    ranked = ["sft.rank_by=reward", f"sft.graded={graded}", "sft.top_k=1"]
    assert sft([*settings(folder, model_dir, "sft"), *ranked]) == 0
    assert "3 training and 1 held-out answers, 21 answer tokens" in capsys.readouterr().out
    by_reward = [f"bradley_terry.graded={graded}", "bradley_terry.use=off_policy"]
    common = settings(folder, model_dir, "bradley_terry")
    with pytest.raises(DataError, match="no prompt has two answers of kind 'off_policy'"):
        reward_model([*common, *by_reward, "bradley_terry.off_policy=[great]"])


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["sft.path=null"], ConfigError, "sft.path is required"),
        (["sft.rank_by=reward"], ConfigError, "a graded file goes with sft.rank_by=reward"),
        (["sft.sources=[nobody]"], DataError, r"sft.sources=\['nobody'\].* great, weak"),
        (["sft.max_tokens=4096"], ConfigError, "learner.micro_batch_tokens=1024 is smaller"),
        (["algorithm.kl_coef=0"], ConfigError, "has no effect on this baseline"),
        (["bradley_terry.use=all"], ConfigError, "has no effect on this baseline"),
        (["sft.path=missing.jsonl"], DataError, "no such file"),
        (["model.name_or_path=./missing"], ModelError, "is not a directory"),
    ],
)
def test_sft_refuses_in_words(
    folder: Path, model_dir: Path, more: list[str], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        sft([*settings(folder, model_dir, "sft"), *more])


def test_a_reward_model_has_no_adapters(folder: Path, model_dir: Path):
    with pytest.raises(ConfigError, match="is trained whole"):
        reward_model([*settings(folder, model_dir, "bradley_terry"), "learner.lora.rank=4"])


def test_training_refuses_what_belongs_to_a_baseline():
    with pytest.raises(ConfigError, match="it is for `rubric-rl sft`"):
        train(["sft.top_k=2", "--cfg", "job"])


def test_answers_are_graded_as_a_whole_without_their_rubrics(
    folder: Path, model_server: ModelServer
):
    """The server gives no grade from 1 to 10, so all of it is unknown and nothing a score."""
    answers = write(
        folder / "answers.jsonl",
        [
            {
                "prompt": "Why?",
                "response": "So.",
                "rubric": {"criteria": [{"id": "c1", "text": "Says so.", "weight": 1}]},
            }
        ],
    )
    out = folder / "graded.jsonl"
    overrides = [*model_server.overrides[:1], *model_server.overrides[2:7]]
    common = [str(answers), "--out", str(out), *overrides, "rubrics.max_unscored_frac=1"]
    assert judge([*common, "judge.llm.mode=likert"]) == 0
    (row,) = read_graded(out)
    assert (row.mode, row.reward) == ("likert", None)
    assert [(v.cid, str(v.cause)) for v in row.verdicts] == [("whole", "out_of_choice")]
    assert judge(common) == 0
    (row,) = read_graded(out)
    assert (row.mode, row.reward) == ("all", 1.0)
