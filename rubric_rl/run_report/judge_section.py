"""Whether the judge could be relied on, and what it cost."""

from __future__ import annotations

from rubric_rl.run_report.curves import JUDGE_PLOTS, charts_html
from rubric_rl.run_report.markup import Html, element, paragraph, section, table
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.scale import number
from rubric_rl.types import FailureCause

_SUMS = (
    ("requests to the model, sent again and second ones too", "judge/calls"),
    ("sent again because the one before failed", "judge/retries"),
    ("second requests while the first was out", "judge/hedges"),
    ("tokens", "judge/tokens"),
    ("tokens that the verdict cache saved", "judge/saved_tokens"),
    ("USD that the verdict cache saved", "judge/saved_usd"),
    ("failed reads and writes of the cache", "judge/cache_failures"),
)
"""Summed over the training steps; held-out evaluations are not in these metrics."""
_LATEST = (
    ("USD spent since the run began, everything", "judge/spent_usd"),
    ("requests answered 429", "judge/rate_limited"),
    ("requests that may be out at once", "judge/concurrency_limit"),
    ("share of endpoints that are up", "judge/endpoints_up"),
)


def judge_html(run: Run, *, level: int) -> Html:
    """Curves, sums, and unknown verdicts by cause; empty if nothing was judged in training."""
    if not run.points("judge/coverage_mean"):
        return section(
            "Judge health",
            paragraph("No training step has been judged yet.", "note"),
            level=level,
        )
    return section(
        "Judge health",
        charts_html(JUDGE_PLOTS, [run]),
        element("div", _unknown(run), _account(run), class_="sides"),
        level=level,
    )


def unknown_by_cause(run: Run) -> dict[str, float]:
    """UNKNOWN verdicts of all training steps by cause, most frequent first; those that occurred."""
    sums = {cause.value: _sum(run, f"judge/unknown/{cause.value}") for cause in FailureCause}
    return dict(sorted(((c, n) for c, n in sums.items() if n), key=lambda entry: -entry[1]))


def _unknown(run: Run) -> Html:
    causes = unknown_by_cause(run)
    if not causes:
        return paragraph("No verdict of a training step is unknown.", "note")
    whole = sum(causes.values())
    rows = [(cause, number(n), f"{n / whole:.0%}") for cause, n in causes.items()]
    caption = "Unknown verdicts of the training steps, by cause"
    return table(("cause", "verdicts", "share"), rows, caption=caption, numbers=2)


def _account(run: Run) -> Html:
    rows = [(words, number(total)) for words, metric in _SUMS if (total := _sum(run, metric))]
    for words, metric in _LATEST:
        value = run.last(metric)
        if value:
            rows.append((words, number(value)))
    if not rows:
        return paragraph("No request went to a model: rules judged everything.", "note")
    return table(("of the training steps", "sum or latest"), rows, caption="Account", numbers=1)


def _sum(run: Run, metric: str) -> float:
    return sum(point.value for point in run.points(metric))
