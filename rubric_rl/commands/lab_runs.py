"""A share of a laboratory's trainings, one after another in one process with one Ray.

    python -m rubric_rl.commands.lab_runs '[["experiment=lab", "run.seed=0", ...], ...]'

Each is what `rubric-rl train` does; Ray and the imports of this process are paid for once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rubric_rl.config.compose import compose
from rubric_rl.errors import RubricRLError

_EXIT_USER_ERROR = 2


def main(argv: Sequence[str]) -> int:
    """Train by each list of overrides. One that fails is told of and the next one begun.

    Returns 0, the exit code of a failure, or at once that of an interruption.
    """
    failed = 0
    try:
        configs = [compose(overrides) for overrides in json.loads(argv[0])]
        # Here because they take long to import, and a wrong setting is told at once.
        from rubric_rl.runtime.cluster import ray_cluster
        from rubric_rl.runtime.launch import run_training

        with ray_cluster(configs[0].cluster):
            for config in configs:
                try:
                    if code := run_training(config):
                        return code
                except RubricRLError as err:
                    failed = _told(err)
    except RubricRLError as err:
        return _told(err)
    return failed


def _told(err: RubricRLError) -> int:
    sys.stderr.write(f"error: {err}\n")
    return _EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
