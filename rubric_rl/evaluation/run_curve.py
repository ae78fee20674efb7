"""The curve of a run out of its folder: what it measured itself, step by step.

    metrics.jsonl           proxy, gold, KL, length, ties
    samples/eval_*.jsonl    gold by prompt

The proxy is the held-out reward under the rubrics that the run began with, where those were
refined during it: under the rubrics in force its level jumps at each refinement.

The policy of step s is what the training of step s + 1 starts from: that one's batch gives its
KL, length and ties. The last policy has no such step, and takes those of the step that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rubric_rl.evaluation.overoptimisation import Curve, CurvePoint, Gold
from rubric_rl.observability.metrics_file import MetricsLine
from rubric_rl.observability.records import SampleRow, read_rows

Sourced = tuple[Gold, str]
"""A gold value and the place that it is from."""

# Half width of a 95 % interval in standard errors.
Z95 = 1.96
GOLD = "eval/gold_mean"
ANCHOR, REWARD = "eval/anchor_reward_mean", "eval/reward_mean"
_TRAINING = ("policy/kl_ref", "rollout/response_tokens_mean", "reward/top_tie_frac")


def run_curve(run: Path, name: str, lines: Iterable[MetricsLine]) -> Curve:
    """What a run measured; without a gold value where it had no gold rubric or judge.

    Args:
        lines: of the run's `metrics.jsonl`.

    Raises:
        DataError: a file of held-out answers is damaged.
    """
    by_step = {line.step: line for line in lines}
    return curve_of(name, by_step, measured_gold(run, by_step), {})


def curve_of(
    name: str,
    lines: Mapping[int, MetricsLine],
    gold: Mapping[int, Sourced],
    benchmark: Mapping[int, tuple[float, str]],
) -> Curve:
    """A point for each step that has a proxy, a gold or a benchmark value."""
    proxied = {step for step, line in lines.items() if proxy_metric(line.metrics) is not None}
    points = (
        _point(step, lines, gold.get(step), benchmark.get(step))
        for step in sorted(proxied | gold.keys() | benchmark.keys())
    )
    return Curve(name=name, points=tuple(points))


def _point(
    step: int,
    lines: Mapping[int, MetricsLine],
    gold: Sourced | None,
    benchmark: tuple[float, str] | None,
) -> CurvePoint:
    evaluation: Mapping[str, float] = lines[step].metrics if step in lines else {}
    training = _training_line(step, lines)
    proxy = proxy_metric(evaluation)
    known: Mapping[str, float] = {} if training is None else training.metrics
    sources = [
        *([f"{proxy}: metrics.jsonl line {lines[step].line}"] if proxy is not None else []),
        *([f"training: line {training.line}"] if training is not None else []),
        *([f"gold: {gold[1]}"] if gold is not None else []),
        *([f"benchmark: {benchmark[1]}"] if benchmark is not None else []),
    ]
    kl, length, ties = (known.get(key) for key in _TRAINING)
    return CurvePoint(
        step=step,
        proxy=None if proxy is None else evaluation[proxy],
        gold=None if gold is None else gold[0],
        benchmark=None if benchmark is None else benchmark[0],
        kl=kl,
        length=length,
        top_tie_frac=ties,
        source="; ".join(sources),
    )


def proxy_metric(metrics: Mapping[str, object]) -> str | None:
    """The name of the proxy in a step's metrics; None where held-out answers were not scored."""
    return next((name for name in (ANCHOR, REWARD) if name in metrics), None)


def _training_line(step: int, lines: Mapping[int, MetricsLine]) -> MetricsLine | None:
    """The training that starts from the policy of a step, or made it."""
    near = [lines[s] for s in (step + 1, step) if s in lines]
    return next((line for line in near if any(key in line.metrics for key in _TRAINING)), None)


def measured_gold(run: Path, lines: Mapping[int, MetricsLine]) -> dict[int, Sourced]:
    """Gold that the run itself measured, by step."""
    return {
        step: (_gold_of(run, line), f"metrics.jsonl line {line.line}")
        for step, line in lines.items()
        if GOLD in line.metrics
    }


def _gold_of(run: Path, line: MetricsLine) -> Gold:
    half = line.metrics.get("eval/gold_ci95")
    rows = _eval_rows(run, line.step)
    return Gold(
        value=line.metrics[GOLD],
        standard_error=None if half is None else half / Z95,
        by_prompt=means_by_prompt([(row.prompt_id, row.gold_reward) for row in rows]),
    )


def _eval_rows(run: Path, step: int) -> list[SampleRow]:
    """Held-out answers; none where they were not kept."""
    path = run / "samples" / f"eval_{step:06d}.jsonl"
    return read_rows(path) if path.exists() else []


def means_by_prompt(rewards: Sequence[tuple[str, float | None]]) -> dict[str, float]:
    """The mean of each prompt's known rewards."""
    by_prompt: dict[str, list[float]] = {}
    for prompt_id, reward in rewards:
        if reward is not None:
            by_prompt.setdefault(prompt_id, []).append(reward)
    return {prompt_id: fmean(own) for prompt_id, own in by_prompt.items()}
