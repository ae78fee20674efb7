"""Which metrics are drawn, and how several runs share one chart.

One run: a curve for each metric, in its colour. Several: a run has one colour in every
chart, and its metrics differ by their dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rubric_rl.run_report.chart import NUM_COLOURS, Chart, Line, chart_html
from rubric_rl.run_report.markup import EMPTY, Html, element
from rubric_rl.run_report.records import Run


@dataclass(frozen=True, slots=True)
class Plot:
    """One chart by its metrics; it is left out where they are all missing."""

    title: str
    unit: str
    metrics: Mapping[str, str]
    """Label to name."""
    note: str = ""
    zero: bool = field(default=True, kw_only=True)
    """The axis begins at 0."""
    skip_zeros: bool = field(default=False, kw_only=True)
    """Left out where all is zero too, as the requests to a model are if rules judge."""


_BAND = "Bands: 95 % intervals over prompts."
CURVES = (
    Plot(
        "Held-out reward",
        "mean over prompts",
        {"rubrics in force": "eval/reward_mean", "first rubrics": "eval/anchor_reward_mean"},
        _BAND,
        zero=False,
    ),
    Plot("Held-out gold", "mean over prompts", {"gold": "eval/gold_mean"}, _BAND, zero=False),
    Plot(
        "Training reward",
        "mean over samples",
        {"mean": "reward/mean"},
        "Other prompts in each step.",
        zero=False,
    ),
    Plot(
        "Ties and saturation at the top",
        "share of groups",
        {
            "best reward is shared": "reward/top_tie_frac",
            "best reward is saturated": "reward/saturated_frac",
            "all rewards are equal": "reward/zero_variance_frac",
        },
    ),
    Plot("KL to the reference", "nats", {"k3": "policy/kl_ref"}),
    Plot("Entropy", "nats", {"policy": "policy/entropy"}, zero=False),
    Plot("Length of a completion", "tokens", {"mean": "rollout/response_tokens_mean"}),
    Plot("Completions cut at the limit", "share", {"cut": "rollout/truncated_frac"}),
)
JUDGE_CURVES = (
    Plot(
        "What was judged",
        "share",
        {
            "judged weight": "judge/coverage_mean",
            "unknown verdicts": "judge/unknown_frac",
            "samples without a reward": "judge/unscored_frac",
        },
    ),
    Plot(
        "Requests to the judge",
        "a step",
        {"all": "judge/calls", "sent again": "judge/retries", "second ones": "judge/hedges"},
        skip_zeros=True,
    ),
    Plot("Time to judge a sample", "s", {"mean": "judge/latency_s"}),
    Plot("Cost of judging", "USD since the start", {"spent": "judge/spent_usd"}, skip_zeros=True),
)


def curves_html(plots: Sequence[Plot], runs: Sequence[Run]) -> Html:
    """Those that have data; empty if none has."""
    charts = [chart_html(chart) for plot in plots if (chart := plotted(plot, runs))]
    return element("div", *charts, class_="charts") if charts else EMPTY


def plotted(plot: Plot, runs: Sequence[Run]) -> Chart | None:
    """The chart of one plot; None if no run has anything for it."""
    is_alone = len(runs) == 1
    lines = [
        Line(
            label=_label(plot, run, label, is_alone=is_alone),
            points=points,
            colour=series if is_alone else position,
            dash=series if is_alone else series + position // NUM_COLOURS,
        )
        for position, run in enumerate(runs)
        for series, (label, metric) in enumerate(plot.metrics.items())
        if (points := run.points(metric))
    ]
    has_value = any(point.value for line in lines for point in line.points)
    if not lines or (plot.skip_zeros and not has_value):
        return None
    return Chart(
        title=plot.title,
        unit=plot.unit,
        lines=tuple(lines),
        zero=plot.zero,
        note=plot.note,
        # Of several runs nobody could tell whose they are.
        marks=runs[0].refined_at if is_alone else (),
    )


def _label(plot: Plot, run: Run, label: str, *, is_alone: bool) -> str:
    if is_alone:
        return label
    return run.label if len(plot.metrics) == 1 else f"{run.label}, {label}"
