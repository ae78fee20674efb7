"""A folder with the files that the READMEs' commands name, small, and none that needs a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rubric_rl.cli import main

from .unit.run_report.run_folders import PROMPTS as PROMPTS_OF_RUNS
from .unit.run_report.run_folders import write_run

RUNS = ("first", "second", "watched", "initial", "great_pairs", "trial", "great")
PROMPT = "sleep-1"
"""A prompt of the files."""

_ANSWERS = (
    "Put your phone away an hour before bed. Ask a doctor if it lasts?",
    "I don't know",
    "You should never double your dose. Keep your budget small, and ask a nurse.",
    "Sleep. Save. Wait.",
)


def fill(folder: Path) -> None:
    """Write all of them, by the project's own commands where it has one."""
    prompts = _prompts()
    ids = [str(prompt["id"]) for prompt in prompts]
    _write(folder / "prompts.jsonl", prompts)
    _write(folder / "gold.jsonl", _gold())
    pool = _pool(ids)
    for name in ("pool", "great"):
        _write(folder / f"{name}.jsonl", pool)
    for name in ("policy", "reference"):
        _write(folder / f"{name}.jsonl", [row for row in pool if row["index"] == 0])
    answers = [{"prompt_id": row["prompt_id"], "response": row["text"]} for row in pool]
    _write(folder / "answers.jsonl", answers)
    graded, rubrics = str(folder / "graded.jsonl"), str(folder / "prompts.jsonl")
    assert (
        main(["judge", str(folder / "answers.jsonl"), "--rubrics", rubrics, "--out", graded]) == 0
    )
    shutil.copy(graded, folder / "better.jsonl")
    (folder / "evals").mkdir()
    for name in RUNS:
        write_run(folder / "runs" / name)
    for name in ("rubrics", "rubrics_good", "rubrics_great"):
        shutil.copytree(folder / "runs" / "first" / "rubrics", folder / name)
    pq.write_table(pa.Table.from_pylist(_RAR), folder / "rar.parquet")


def _prompts() -> list[dict[str, object]]:
    """Some of the quickstart's, with rules only, the first under the id that READMEs name."""
    prompts = _quickstart()[:6]
    prompts[0]["id"] = PROMPT
    return prompts


def _gold() -> list[dict[str, object]]:
    """Of the quickstart's held-out prompts, and of those that the runs evaluate."""
    held_out = [prompt for prompt in _quickstart() if prompt["split"] == "eval"]
    turn = {"role": "user", "content": "My knee hurts. See a doctor within a day."}
    evaluated = [{**held_out[0], "id": p, "messages": [turn]} for p in PROMPTS_OF_RUNS]
    return [*held_out, *evaluated]


def _quickstart() -> list[dict[str, object]]:
    package = Path(__file__).parents[1] / "rubric_rl" / "data" / "quickstart" / "prompts.jsonl"
    return [json.loads(line) for line in package.read_text(encoding="utf-8").splitlines()]


def _pool(ids: Sequence[str]) -> list[dict[str, object]]:
    """Enough answers to each prompt for the eight best and the eight behind them."""
    return [
        {
            "prompt_id": p,
            "source": "m",
            "index": i,
            "text": f"{_ANSWERS[i % len(_ANSWERS)]} {'And rest.' * i}",
            "preference": i / 20,
        }
        for p in ids
        for i in range(20)
    ]


_RAR = [
    {
        "question": f"Question {i}?",
        "reference_answer": "So.",
        "rubric": [
            {
                "title": "Dose",
                "description": "Essential Criteria: Names a dose.",
                "weight": 5,
            }
        ],
        "rubric_count": 1,
    }
    for i in range(3)
]


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
