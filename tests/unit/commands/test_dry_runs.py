"""Every command that writes or asks can be tried without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rubric_rl.cli import main

# What remains only reads: rubrics lint, show, log and diff, checkpoints list and verify.
COMMANDS = (
    "train",
    "plan",
    "doctor",
    "judge",
    "judge card",
    "rollouts",
    "rubrics import",
    "rubrics export",
    "rubrics build",
    "rubrics analyze",
    "eval winrate",
    "eval tail",
    "eval healthbench",
    "eval prbench",
    "theory",
    "theory figure2",
    "theory estimate",
    "checkpoints export",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_dry_run(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert "--dry-run" in capsys.readouterr().out


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two prompts of one rule each, and two models' answers with preferences."""
    folder = tmp_path / "in"
    folder.mkdir()
    prompts = [
        {
            "id": prompt_id,
            "domain": "x",
            "messages": [{"role": "user", "content": "Why?"}],
            "rubric": {
                "criteria": [
                    {
                        "id": "c1",
                        "text": "Stays within 3 words",
                        "weight": 1,
                        "rule": {"rule": "word_count", "max": 3},
                    }
                ]
            },
        }
        for prompt_id in ("p1", "p2")
    ]
    answers = [
        {
            "prompt_id": prompt_id,
            "source": source,
            "index": number,
            "text": f"{source} two" + " three four" * number,
            "preference": float(number),
        }
        for prompt_id in ("p1", "p2")
        for source in ("good", "weak")
        for number in (0, 1)
    ]
    for name, rows in (("prompts", prompts), ("pool", answers)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for source in ("good", "weak"):
        own = [row for row in answers if row["source"] == source and row["preference"] == 1.0]
        text = "".join(json.dumps(row) + "\n" for row in own)
        (folder / f"{source}.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


def _left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "eval winrate in/good.jsonl --against in/weak.jsonl --prompts in/prompts.jsonl "
            "--by rubric --out new/win.json",
            ["2 pairs of good and weak, by rubric", "new/win.json would be written"],
        ),
        (
            "eval winrate in/good.jsonl --against in/weak.jsonl --prompts in/prompts.jsonl "
            "--orders both --out new/win.json judge=openai "
            "judge.llm.base_url=http://127.0.0.1:9/v1 judge.llm.model=m judge.llm.api_key_env=null",
            ["at most 4 comparisons, one call each"],
        ),
        (
            "eval tail in/pool.jsonl --rubrics in/prompts.jsonl --top 2 --out new/tail.json",
            ["4 pairs, 1 gradings of each answer", "criteria by rule"],
        ),
        (
            "eval healthbench in/good.jsonl --rubrics in/prompts.jsonl --format canonical "
            "--out new/hb.json",
            ["answers to grade", "new/hb.json would be written"],
        ),
        ("theory --csv new/values.csv", ["new/values.csv would be written"]),
        ("theory figure2 --out new", ["new/figure2.png would be written"]),
        (
            "theory estimate in/pool.jsonl --rubrics in/prompts.jsonl --out new",
            ["8 answers of 2 prompts would be scored by rules", "new/estimate.json"],
        ),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(
    inputs: Path, command: str, said: list[str], capsys: pytest.CaptureFixture[str]
):
    before = _left(inputs.parent)
    assert main([*command.split(), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert all(words in text for words in said), text
    assert _left(inputs.parent) == before and not (inputs.parent / "new").exists()


def test_a_dry_run_checks_its_inputs(inputs: Path, capsys: pytest.CaptureFixture[str]):
    command = "eval winrate in/good.jsonl --against in/none.jsonl --by preference --out win.json"
    assert main([*command.split(), "--dry-run"]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    inputs.joinpath("win.json").mkdir()
    command = command.replace("none", "weak").replace("win.json", "in/win.json")
    assert main([*command.split(), "--dry-run"]) == 2
    assert "is a folder" in capsys.readouterr().err
