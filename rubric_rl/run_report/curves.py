"""Which metrics are drawn, and how several runs share one chart.

One run: a curve for each metric, in its colour. Several: a run has one colour in every
chart, and its metrics differ by their dashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.run_report.chart import Chart, Line, chart_html
from rubric_rl.run_report.markup import EMPTY, Html, element
from rubric_rl.run_report.records import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One chart by its metrics."""

    title: str
    unit: str
    metrics: tuple[tuple[str, str], ...]
    """Label and name of each."""
    zero: bool = True
    """The axis begins at 0, and a chart in which all is 0 is left out if `skip_zeros`."""
    skip_zeros: bool = False
    note: str = ""


REWARD_PLOTS = (
    Plot(
        title="Held-out reward",
        unit="reward",
        metrics=(
            ("rubrics in force", "eval/reward_mean"),
            ("first rubrics", "eval/anchor_reward_mean"),
        ),
        zero=False,
        note="Bands: 95 % intervals over prompts.",
    ),
    Plot(
        title="Held-out gold",
        unit="gold",
        metrics=(("gold", "eval/gold_mean"),),
        zero=False,
        note="Band: 95 % interval.",
    ),
    Plot(
        title="Training reward",
        unit="reward",
        metrics=(("mean", "reward/mean"),),
        zero=False,
        note="Other prompts in each step.",
    ),
    Plot(
        title="Ties and saturation at the top",
        unit="share of groups",
        metrics=(
            ("best reward is shared", "reward/top_tie_frac"),
            ("best reward is saturated", "reward/saturated_frac"),
            ("all rewards are equal", "reward/zero_variance_frac"),
        ),
    ),
)
POLICY_PLOTS = (
    Plot(title="KL to the reference", unit="nats", metrics=(("k3", "policy/kl_ref"),)),
    Plot(title="Entropy", unit="nats", metrics=(("policy", "policy/entropy"),), zero=False),
    Plot(
        title="Length of a completion",
        unit="tokens",
        metrics=(("mean", "rollout/response_tokens_mean"),),
    ),
    Plot(
        title="Completions cut at the limit",
        unit="share",
        metrics=(("cut", "rollout/truncated_frac"),),
    ),
)
JUDGE_PLOTS = (
    Plot(
        title="What was judged",
        unit="share",
        metrics=(
            ("judged weight", "judge/coverage_mean"),
            ("unknown verdicts", "judge/unknown_frac"),
            ("samples without a reward", "judge/unscored_frac"),
        ),
    ),
    Plot(
        title="Requests to the judge",
        unit="count a step",
        metrics=(
            ("all", "judge/calls"),
            ("sent again", "judge/retries"),
            ("second ones", "judge/hedges"),
        ),
        skip_zeros=True,
    ),
    Plot(title="Time to judge a sample", unit="s", metrics=(("mean", "judge/latency_s"),)),
    Plot(
        title="Cost of judging",
        unit="USD since the start",
        metrics=(("spent", "judge/spent_usd"),),
        skip_zeros=True,
    ),
)


def charts_html(plots: Sequence[Plot], runs: Sequence[Run]) -> Html:
    """Those that have data; empty if none has."""
    charts = [chart_html(chart) for plot in plots if (chart := plotted(plot, runs))]
    return element("div", *charts, class_="charts") if charts else EMPTY


def plotted(plot: Plot, runs: Sequence[Run]) -> Chart | None:
    """The chart of one plot; None if no run has any of its metrics."""
    lines = [
        Line(
            label=_label(plot, run, label, is_alone=len(runs) == 1),
            points=points,
            colour=series if len(runs) == 1 else position,
            dash=series if len(runs) == 1 else series + 4 * (position // 8),
        )
        for position, run in enumerate(runs)
        for series, (label, metric) in enumerate(plot.metrics)
        if (points := run.points(metric))
    ]
    if plot.skip_zeros and not any(p.value for line in lines for p in line.points):
        return None
    if not lines:
        return None
    # Of several runs nobody could tell whose they are.
    marks = runs[0].refined_at if len(runs) == 1 else ()
    return Chart(
        title=plot.title,
        unit=plot.unit,
        lines=tuple(lines),
        zero=plot.zero,
        note=plot.note,
        marks=marks,
    )


def _label(plot: Plot, run: Run, label: str, *, is_alone: bool) -> str:
    if is_alone:
        return label
    return run.label if len(plot.metrics) == 1 else f"{run.label}, {label}"
