"""What the runs came to: held-out answers scored with the hidden gold rubric, after the fact.

A run knows its proxy alone. Here its evaluations' answers are read and scored anew, so gold is
in no way part of the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from rubric_rl.errors import DataError
from rubric_rl.lab.gold import gold_score
from rubric_rl.lab.onset import FloatArray
from rubric_rl.lab.plan import LabPlan, RunPlan
from rubric_rl.lab.prompts import questions
from rubric_rl.observability.records import SampleRow, read_rows

MEASURES = ("gold", "win", "proxy", "words", "ties", "cut")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """One run at its evaluated steps, by held-out prompt."""

    condition: str
    seed: int
    steps: tuple[int, ...]
    by_name: dict[str, FloatArray]
    """Each of `MEASURES`, [K, P]: gold reward; gold win rate against the start policy's answers to
    the same prompt, a tie half a win; proxy reward; words; share of the answers that share the
    best proxy reward; share of answers cut at the longest length."""
    kl_K: FloatArray
    """To the start policy, nats a token, mean over the training steps since the last evaluation."""
    start_scores: FloatArray
    """[2, N] Proxy and gold reward of each held-out answer of the start policy."""

    def __getitem__(self, name: str) -> FloatArray:
        return self.by_name[name]


def read_run(plan: LabPlan, run: RunPlan) -> RunCurves:
    """Score a complete run. Raises DataError where its rows are not what the plan says."""
    topics = {question.prompt_id: question.topic for question in questions()}
    folder = plan.run_dir(run)
    start: list[FloatArray] | None = None
    start_proxies: list[FloatArray] = []
    values: dict[str, list[list[float]]] = {name: [] for name in MEASURES}
    for step in plan.evaluated_steps:
        groups = _groups(folder / "samples" / f"eval_{step:06d}.jsonl")
        golds = [
            np.array([gold_score(topics[prompt_id], row.completion) for row in rows])
            for prompt_id, rows in groups
        ]
        proxies = [np.array([row.reward for row in rows], dtype=float) for _, rows in groups]
        if start is None:
            start, start_proxies = golds, proxies
        if len(start) != len(golds):
            raise DataError(
                f"{folder}: step {step} has answers to {len(golds)} prompts, the first evaluation "
                f"to {len(start)}: delete the folder to run it again"
            )
        values["gold"].append([float(g.mean()) for g in golds])
        values["win"].append([win_rate(g, s) for g, s in zip(golds, start, strict=True)])
        values["proxy"].append([float(p.mean()) for p in proxies])
        values["ties"].append([float((p == p.max()).mean()) for p in proxies])
        values["words"].append(_means(groups, lambda row: len(row.completion.split())))
        values["cut"].append(_means(groups, lambda row: row.finish_reason == "length"))
    return RunCurves(
        condition=run.condition,
        seed=run.seed,
        steps=plan.evaluated_steps,
        by_name={name: np.array(rows) for name, rows in values.items()},
        kl_K=_kl(folder / "metrics.jsonl", plan.evaluated_steps),
        start_scores=np.array([np.concatenate(start_proxies), np.concatenate(start or [])]),
    )


def win_rate(ours: FloatArray, theirs: FloatArray) -> float:
    """Share of all pairs that ours win, a tie half a win."""
    gaps = ours[:, None] - theirs[None, :]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def _groups(path: Path) -> list[tuple[str, list[SampleRow]]]:
    """Rows by prompt, in the order of ids. Unscored ones there are none: rules decide."""
    groups: dict[str, list[SampleRow]] = {}
    for row in read_rows(path):
        if row.reward is None:
            raise DataError(f"{path}: an answer to {row.prompt_id!r} is unscored")
        groups.setdefault(row.prompt_id, []).append(row)
    return sorted(groups.items())


def _means(
    groups: Sequence[tuple[str, list[SampleRow]]], of: Callable[[SampleRow], float]
) -> list[float]:
    return [float(np.mean([of(row) for row in rows])) for _, rows in groups]


def _kl(path: Path, steps: Sequence[int]) -> FloatArray:
    """Mean of `policy/kl_ref` between evaluations; 0 before the first step."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_step = {r["step"]: r["policy/kl_ref"] for r in records if "policy/kl_ref" in r}
    means = [0.0]
    for before, now in pairwise(steps):
        between = [by_step[s] for s in range(before + 1, now + 1) if s in by_step]
        means.append(float(np.mean(between)))
    return np.array(means)
