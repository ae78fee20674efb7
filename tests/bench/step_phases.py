"""Where the time of one CPU step goes, beside what the machine can do.

    .venv/bin/python tests/bench/step_phases.py [NUM_STEPS]

Runs the quickstart's step (4 prompts x 8 samples x 64 new tokens, SmolLM2-135M,
float32) and prints the median of each phase without the first step, which warms
up. The floor of the learner is its arithmetic at the machine's matrix rate.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = ("time/rollout_s", "time/judge_wait_s", "time/learner_s", "time/weight_sync_s")
# Multiply-adds of SmolLM2-135M for one token, times two: the layers, and the head
# that runs for completion tokens only.
LAYER_FLOP, HEAD_FLOP = 2 * 106.2e6, 2 * 28.3e6
# Policy forward, policy backward (twice a forward), reference forward.
PASSES = 4


def matrix_rate(size: int = 2048, repeats: int = 10) -> float:
    """FLOP/s of a float32 matrix product, best of `repeats`."""
    import torch

    a = torch.randn(size, size)
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def run_steps(num_steps: int, run_dir: Path) -> list[dict[str, float]]:
    overrides = [
        "experiment=quickstart_cpu",
        f"run.dir={run_dir}",
        f"run.max_steps={num_steps}",
        "run.eval_every_steps=1000",
        "run.eval_samples_per_prompt=1",
        "run.checkpoint_every_steps=1000",
        "logging.wandb.mode=disabled",
    ]
    subprocess.run([sys.executable, "-m", "rubric_rl.train", *overrides], check=True)
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["step"] > 1]


def main() -> None:
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    rate = matrix_rate()
    with tempfile.TemporaryDirectory() as directory:
        steps = run_steps(num_steps, Path(directory) / "run")
    medians = {p: statistics.median(s[p] for s in steps) for p in (*PHASES, "time/step_s")}
    completion_tokens = statistics.median(s["rollout/tokens"] for s in steps)
    prompt_tokens = 32 * 45  # the quickstart's prompts have about 45 tokens
    flop = PASSES * (
        LAYER_FLOP * (completion_tokens + prompt_tokens) + HEAD_FLOP * completion_tokens
    )
    print(f"matrix rate {rate / 1e9:.0f} GFLOP/s, {len(steps)} steps")
    for phase, seconds in medians.items():
        print(f"{phase:20} {seconds:7.2f} s")
    tokens_per_s = statistics.median(s["rollout/tokens_per_s"] for s in steps)
    floor = flop / rate
    print(f"rollout              {tokens_per_s:7.0f} tokens/s")
    print(f"learner floor        {floor:7.2f} s")
    print(f"learner / floor      {medians['time/learner_s'] / floor:7.2f}")


if __name__ == "__main__":
    main()
