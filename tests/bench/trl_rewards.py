"""TRL's GRPOTrainer trains two steps of a tiny model on rubric rewards, in TRL's own environment.

    .venv/bin/python tests/bench/trl_rewards.py [--env DIR]

The rewards come from `rubric-rl serve` first, then from a judge in the trainer's process. The
other half is `trl_rewards_trainer.py`, which checks what the trainer logs and fails if it is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trl_environment import ROOT, default_directory, prepare

_TIMEOUT_S = 600
_KEY = "bench-key"


def write_rubrics(path: Path) -> None:
    """Two prompts that fit a model of 128 positions, and rules that random letters meet or not."""
    criteria = [
        {"id": "a", "text": "Has an a, b or c.", "weight": 3, "rule": "[abcABC]"},
        {"id": "b", "text": "Has a digit.", "weight": 1, "rule": "[0-9]"},
        {"id": "c", "text": "Has an x, y or z.", "weight": 2, "rule": "[xyzXYZ]"},
    ]
    ruled = [c | {"rule": {"rule": "regex", "pattern": c["rule"]}} for c in criteria]
    rows = [
        {
            "id": f"p{index}",
            "domain": "bench",
            "messages": [{"role": "user", "content": text}],
            "rubric": {"criteria": ruled},
        }
        for index, text in enumerate(("Say a.", "Say 1."))
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@contextmanager
def served(rubrics: Path) -> Iterator[str]:
    """The address of `rubric-rl serve` on these rubrics."""
    command = [sys.executable, "-m", "rubric_rl.cli", "serve", "--rubrics", str(rubrics)]
    command += ["judge=rules", "--port", "0", "--api-key-env", "RUBRIC_RL_API_KEY"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        server.stderr.readline()
        try:
            yield server.stderr.readline().split()[-1]
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, default=default_directory(), metavar="DIR")
    python = prepare(parser.parse_args().env)
    # Ours alone: the project's own packages stay out of TRL's environment.
    os.environ |= {"PYTHONPATH": str(ROOT), "RUBRIC_RL_API_KEY": _KEY, "HF_HUB_OFFLINE": "1"}
    trainer = [str(python), str(Path(__file__).with_name("trl_rewards_trainer.py"))]
    with tempfile.TemporaryDirectory() as directory:
        rubrics, dataset = Path(directory, "prompts.jsonl"), Path(directory, "trl.jsonl")
        write_rubrics(rubrics)
        export = ["rubrics", "export", str(rubrics), "--to", str(dataset), "--layout", "trl"]
        subprocess.run([sys.executable, "-m", "rubric_rl.cli", *export], check=True, timeout=60)
        with served(rubrics) as url:
            subprocess.run([*trainer, str(dataset), "--url", url], check=True, timeout=_TIMEOUT_S)
        here = ["--rubrics", str(rubrics)]
        subprocess.run([*trainer, str(dataset), *here], check=True, timeout=_TIMEOUT_S)


if __name__ == "__main__":
    main()
