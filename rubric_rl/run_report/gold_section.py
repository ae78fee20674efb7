"""Whether the run over-optimised its rubrics, where a gold rubric or judge measured it."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.evaluation.overoptimisation import CONFIDENCE, CurvePoint, Decline
from rubric_rl.run_report.markup import EMPTY, Html, element, note, section, table, text
from rubric_rl.run_report.records import Run

_HEAD = ("run", "peak", "at step", "decline from", "last", "under the peak", "area", "area by KL")
_RULE = (
    "The decline begins at the first evaluation after the peak from which all are below it by "
    f"more than noise ({CONFIDENCE:.0%}, one-sided); a question mark: the last ones are not "
    "clearly below it. Area: mean height of the normalised proxy above the normalised gold, over "
    "steps and over KL; 0 where both rise and fall together."
)


def gold_html(run: Run, *, level: int) -> Html:
    """A sentence and the figures; empty if the run has no gold."""
    if run.decline is None:
        return EMPTY
    words = element("p", text(decline_words(run.decline)), class_="bottleneck")
    return section("Over-optimisation", words, declines_table([run]), level=level)


def declines_table(runs: Sequence[Run]) -> Html:
    """A row for each run that has gold; empty if none has."""
    rows = [(run.label, *_figures(run.decline)) for run in runs if run.decline is not None]
    if not rows:
        return EMPTY
    return element("div", table("Gold, by one rule", _HEAD, rows, numbers=7), note(_RULE))


def _figures(decline: Decline) -> list[str]:
    return [
        f"{_gold(decline.peak):.3f}",
        str(decline.peak.step),
        _onset(decline),
        f"{_gold(decline.final):.3f}",
        f"{decline.final_drop.value:.3f}",
        _number(decline.area_by_step),
        _number(decline.area_by_kl),
    ]


def _onset(decline: Decline) -> str:
    if decline.onset is None:
        return "none"
    return f"{decline.onset.step}{'' if decline.is_confirmed else ' ?'}"


def decline_words(decline: Decline) -> str:
    """The finding in a sentence or two."""
    peak, final, fallen = decline.peak, decline.final, decline.final_drop
    if decline.num_evaluations == 1:
        return f"Gold was evaluated once: {_gold(final):.3f} at step {final.step}."
    if decline.onset is None:
        return (
            f"No decline of gold: the last evaluation, {_gold(final):.3f} at step {final.step}, is "
            f"not below the peak ({_gold(peak):.3f} at step {peak.step}) by more than noise."
        )
    last = f"{_gold(final):.3f} at step {final.step}, {fallen.value:.3f} under the peak"
    if not decline.is_confirmed:
        return (
            f"Gold may be declining from step {decline.onset.step} on: it peaked at "
            f"{_gold(peak):.3f} at step {peak.step} and is {last}, which noise could be."
        )
    return (
        f"The run over-optimises its rubrics: gold peaked at {_gold(peak):.3f} at step {peak.step} "
        f"and declines from step {decline.onset.step} on, to {last} (at least {fallen.low:.3f}, "
        f"{CONFIDENCE:.0%}). The policy of step {peak.step} is the best by gold."
    )


def _gold(point: CurvePoint) -> float:
    assert point.gold is not None
    return point.gold.value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
