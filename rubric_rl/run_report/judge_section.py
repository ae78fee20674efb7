"""Whether the judge could be relied on, and what it cost."""

from __future__ import annotations

from rubric_rl.run_report.curves import JUDGE_CURVES, curves_html
from rubric_rl.run_report.markup import Html, element, note, section, table
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.scale import number
from rubric_rl.types import FailureCause

# Of the training steps; held-out evaluations are not in these metrics.
_SUMS = {
    "requests to the model": "judge/calls",
    "sent again because the one before failed": "judge/retries",
    "second ones while the first was out": "judge/hedges",
    "tokens": "judge/tokens",
    "tokens saved by the verdict cache": "judge/saved_tokens",
    "USD saved by the verdict cache": "judge/saved_usd",
    "failed reads and writes of the cache": "judge/cache_failures",
}
_LATEST = {
    "USD since the run began, evaluations too": "judge/spent_usd",
    "requests answered 429": "judge/rate_limited",
    "requests that may be out at once": "judge/concurrency_limit",
    "share of endpoints that are up": "judge/endpoints_up",
}


def judge_html(run: Run, *, level: int) -> Html:
    """Curves, unknown verdicts by cause, sums; a sentence if nothing was judged in training."""
    if not run.points("judge/coverage_mean"):
        return section("Judge health", note("No training step was judged yet."), level=level)
    sides = element("div", _unknown(run), _account(run), class_="sides")
    return section("Judge health", curves_html(JUDGE_CURVES, [run]), sides, level=level)


def unknown_by_cause(run: Run) -> dict[str, float]:
    """UNKNOWN verdicts of all training steps by cause, most frequent first; those that occurred."""
    sums = {cause.value: _sum(run, f"judge/unknown/{cause.value}") for cause in FailureCause}
    return dict(sorted(((c, n) for c, n in sums.items() if n), key=lambda entry: -entry[1]))


def _unknown(run: Run) -> Html:
    causes = unknown_by_cause(run)
    if not causes:
        return note("No verdict of a training step is unknown.")
    whole = sum(causes.values())
    rows = [(cause, number(n), f"{n / whole:.0%}") for cause, n in causes.items()]
    title = "Unknown verdicts of the training steps, by cause"
    return table(title, ("cause", "verdicts", "share"), rows, numbers=2)


def _account(run: Run) -> Html:
    rows = [(name, number(total)) for name, metric in _SUMS.items() if (total := _sum(run, metric))]
    latest = [(name, run.points(metric)) for name, metric in _LATEST.items()]
    rows += [(name, number(own[-1].value)) for name, own in latest if own and own[-1].value]
    if not rows:
        return note("No request went to a model: rules judged everything.")
    return table("Account of the training steps", ("what", "sum or latest"), rows, numbers=1)


def _sum(run: Run, metric: str) -> float:
    return sum(point.value for point in run.points(metric))
