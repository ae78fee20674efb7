"""Predicted against measured win rates of best of n, on a pool scored by a plain rubric.

    .venv/bin/python tests/bench/estimate_pool.py POOL.jsonl

POOL has a prompt with all its answers a line, each with a reference judge's preference. Runs
`rubric-rl theory estimate` with six rules that say nothing about any prompt, and prints its table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RULES = {
    "Has at least 120 words.": {"rule": "word_count", "min": 120},
    "Has at least 250 words.": {"rule": "word_count", "min": 250},
    "Comes to an end.": {"rule": "regex", "pattern": "[.!?)\\]`\"'*:]\\s*$"},
    "Has more than five sentences.": {"rule": "sentence_count", "min": 6},
    "Does not apologise.": {"rule": "contains_none", "terms": ["I'm sorry", "I cannot"]},
    "Has a list.": {"rule": "regex", "pattern": "(?m)^\\s*([-*]|\\d+\\.)\\s"},
}


def prompts(pool: Path) -> str:
    """The pool's prompts with that rubric, as a prompt file."""
    criteria = [
        {"id": f"c{index}", "text": text, "weight": 1, "rule": rule}
        for index, (text, rule) in enumerate(RULES.items())
    ]
    rows = [
        {
            "id": row["prompt_id"],
            "domain": "general",
            "messages": [{"role": "user", "content": row["prompt"]}],
            "rubric": {"criteria": criteria},
        }
        for row in map(json.loads, pool.read_text(encoding="utf-8").splitlines())
    ]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", type=Path)
    pool = parser.parse_args().pool
    with tempfile.TemporaryDirectory() as directory:
        rubrics, out = Path(directory, "prompts.jsonl"), Path(directory, "estimate")
        rubrics.write_text(prompts(pool), encoding="utf-8")
        command = [sys.executable, "-m", "rubric_rl.cli", "theory", "estimate", str(pool)]
        command += ["--rubrics", str(rubrics), "--out", str(out)]
        subprocess.run(command, check=True, timeout=600)
        sys.stdout.write((out / "best_of_n.csv").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
