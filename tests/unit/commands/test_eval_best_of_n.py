"""`rubric-rl eval best-of-n`: rewards by rules, graded files and a judge; gold; refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rubric_rl.commands.eval_best_of_n import main
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.refinement.candidates import read_pool

from .conftest import ModelServer


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two prompts with four answers; rules give 1, 2/3, 1/3 and 0, preferences the reverse."""
    rule = {"rule": "contains_any"}
    criteria = [
        {"id": "c1", "text": "a", "weight": 2, "rule": rule | {"terms": ["alpha"]}},
        {"id": "c2", "text": "b", "weight": 1, "rule": rule | {"terms": ["beta"]}},
    ]
    texts = {"alpha beta": 0.1, "alpha": 0.2, "<think>alpha</think>beta": 0.3, "nothing": 0.4}
    prompts = [
        {
            "id": f"p{i}",
            "domain": "d",
            "messages": [{"role": "user", "content": f"Question {i}?"}],
            "rubric": {"criteria": criteria},
        }
        for i in range(2)
    ]
    pool = [
        {"prompt_id": f"p{i}", "source": "m", "index": j, "text": text, "preference": worth}
        for i in range(2)
        for j, (text, worth) in enumerate(texts.items())
    ]
    write(tmp_path / "prompts.jsonl", prompts)
    write(tmp_path / "pool.jsonl", pool)
    return tmp_path


def run(folder: Path, *more: str, out: str = "best.jsonl") -> dict[str, Any]:
    arguments = [str(folder / "pool.jsonl"), "--rubrics", str(folder / "prompts.jsonl")]
    assert main([*arguments, "--out", str(folder / out), *more]) == 0
    return json.loads((folder / f"{out}.figures.json").read_text())


def test_the_best_answers_become_a_pool_with_the_figures_by_n(folder: Path):
    figures = run(folder, "--n", "4")
    pool = read_pool(folder / "best.jsonl")
    assert [(c.source, c.text, c.preference) for own in pool.by_prompt.values() for c in own] == [
        ("best-of-4", "alpha beta", 0.1)
    ] * 2
    assert [one["n"] for one in figures["by_n"]] == [1, 2, 4]
    # Best of two of 1, 2/3, 1/3, 0: the best is in 3 of 6 pairs, the second in 2 of the others.
    rewards = [one["reward"]["value"] for one in figures["by_n"]]
    assert rewards == pytest.approx([1 / 2, (3 + 2 * 2 / 3 + 1 / 3) / 6, 1])
    golds = [one["gold"]["value"] for one in figures["by_n"]]
    assert golds == pytest.approx([0.25, (3 * 0.1 + 2 * 0.2 + 0.3) / 6, 0.1])
    # The reward is the wrong way round: best of two beats a third answer in 1 of 4 such draws.
    assert figures["by_n"][0]["win_rate"]["value"] == pytest.approx(0.5)
    assert figures["by_n"][1]["win_rate"]["value"] == pytest.approx(1 / 3)
    assert figures["by_n"][2]["win_rate"] is None
    assert (figures["judge_id"], figures["gold"]) == ("rules", "stored preferences")


def test_thinking_counts_for_nothing_and_stays_in_the_pool(folder: Path):
    rows = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
    write(folder / "pool.jsonl", [row for row in rows if row["index"] in (2, 3)])
    figures = run(folder, "--n", "2", "--name", "mine")
    assert figures["picked_reward"] == pytest.approx(1 / 3)
    (pick,) = read_pool(folder / "best.jsonl").by_prompt["p0"]
    assert (pick.source, pick.text) == ("mine", "<think>alpha</think>beta")


def test_rewards_and_gold_come_out_of_graded_files(folder: Path):
    run(folder, "--n", "1", out="first.jsonl")
    graded = folder / "first.jsonl.graded.jsonl"
    figures = run(folder, "--n", "4", "--graded", str(graded), "--gold", str(graded))
    assert figures["picked_reward"] == 1
    assert figures["gold"] == graded.name
    best = figures["by_n"][-1]
    assert best["gold"]["value"] == best["reward"]["value"] == 1


def test_what_the_judge_could_not_grade_is_not_chosen(folder: Path, model_server: ModelServer):
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    for row in rows:
        row["rubric"]["criteria"] = [{"id": "c1", "text": "Is good.", "weight": 1}]
    write(folder / "prompts.jsonl", rows)
    model_server.fails = lambda body: "alpha beta" in json.dumps(body)
    figures = run(folder, "--n", "3", *model_server.overrides[:1], *model_server.overrides[2:7])
    assert figures["left_out"] == {"unscored answers": 2}
    assert all(
        c.text != "alpha beta"
        for own in read_pool(folder / "best.jsonl").by_prompt.values()
        for c in own
    )


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--n", "5"], ConfigError, "no prompt of .* has more than 4 answers"),
        (["--n", "2", "--source", "other"], DataError, "there are answers of m"),
        (["--n", "2", "--graded", "{pool}"], DataError, "no file of graded answers"),
        (["--n", "2", "--graded", "{pool}", "judge=rules"], ConfigError, "have no effect"),
    ],
)
def test_bad_input_is_refused_in_words(
    folder: Path, more: list[str], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        run(folder, *[word.format(pool=folder / "pool.jsonl") for word in more])
    assert not (folder / "best.jsonl").exists()
