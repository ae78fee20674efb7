"""TRL's own GRPOTrainer trains two steps on our rewards, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "trl_rewards.py"


@pytest.mark.trl
@pytest.mark.timeout(1500)
def test_two_steps_with_the_server_and_two_with_the_judge_in_the_trainer() -> None:
    # The trainer's process checks what it logs, and fails if that is wrong.
    command = [sys.executable, str(BENCH)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout + done.stderr
