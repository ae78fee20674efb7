"""Curves of made-up runs."""

from collections.abc import Sequence

import numpy as np

from rubric_rl.lab.measures import MEASURES, RunCurves

STEPS = (0, 10, 20, 30, 40, 50)


def made_up_run(
    condition: str, seed: int, gold: Sequence[float], *, noise: float = 0.01, num_prompts: int = 12
) -> RunCurves:
    """A run whose gold follows `gold`, each prompt with an offset and a noise of its own."""
    rng = np.random.default_rng(100 * seed + sum(map(ord, condition)))
    offsets = np.linspace(-0.1, 0.1, num_prompts)
    values = np.array(gold)[:, None] + offsets + rng.normal(0, noise, (len(gold), num_prompts))
    return RunCurves(
        condition=condition,
        seed=seed,
        steps=STEPS,
        by_name=dict.fromkeys(MEASURES, values),
        kl_K=np.linspace(0.0, 0.5, len(STEPS)),
        start_scores=np.array([[0.2, 0.4, 0.6], [0.1, 0.5, 0.3]]),
    )


def made_up_runs(
    initial: Sequence[float], refined: Sequence[float], *, noise: float = 0.01
) -> list[RunCurves]:
    """Three seeds of `initial` and of the condition that the conclusion is about."""
    conditions = {"initial": initial, "great_diverse_pairs": refined}
    return [
        made_up_run(condition, seed, gold, noise=noise)
        for seed in range(3)
        for condition, gold in conditions.items()
    ]
