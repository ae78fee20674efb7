"""TRL's own GRPO loss on the random inputs of `tests/unit/algorithms/test_loss_parity.py`.

    .venv/bin/python tests/bench/trl_losses.py [--env DIRECTORY]

Writes `trl_losses.json` beside that test, which compares our losses and gradients with it. To be
run again when the cases or TRL's version change. `trl_losses_trainer.py` calls TRL.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from trl_environment import ROOT, default_directory, prepare

_TIMEOUT_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", type=Path, default=default_directory())
    python = prepare(parser.parse_args().env)
    cases = ROOT / "tests/unit/algorithms"
    trainer = Path(__file__).with_name("trl_losses_trainer.py")
    command = [str(python), str(trainer), str(cases)]
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)


if __name__ == "__main__":
    main()
