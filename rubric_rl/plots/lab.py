"""The laboratory's figures: gold and proxy reward of each condition by step, and gold by KL."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rubric_rl.lab.comparison import ConditionCurve
from rubric_rl.plots.style import BLACK, BLUE, GREEN, ORANGE, VERMILION, figure_style

_STYLES: dict[str, tuple[str, str, str]] = {
    "initial": (BLACK, "solid", "o"),
    "good_pair": (ORANGE, "dashed", "s"),
    "great_pair": (GREEN, "dashdot", "^"),
    "great_pairs": (BLUE, "dotted", "D"),
    "great_diverse_pairs": (VERMILION, "solid", "v"),
}
_LABELS = {"gold": "Gold reward (hidden)", "proxy": "Proxy reward (trained on)"}


def draw_curves(curves: Sequence[ConditionCurve]) -> Figure:
    """Gold at the left, each condition's own proxy at the right; bands are 95 % intervals."""
    with figure_style():
        figure = Figure(figsize=(7.4, 3.8), layout="constrained")
        axes = figure.subplots(1, 2)
        for ax, name, letter in zip(axes, ("gold", "proxy"), "ab", strict=True):
            for curve in curves:
                _draw(ax, curve, name)
            ax.set_xlabel("GRPO step")
            ax.set_title(f"({letter}) {_LABELS[name]}")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def draw_by_kl(curves: Sequence[ConditionCurve]) -> Figure:
    """Gold against the KL from the start policy; a mark for each evaluation."""
    with figure_style():
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        ax = figure.subplots()
        for curve in curves:
            colour, dashes, mark = _STYLES[curve.condition]
            ax.plot(
                curve.means["kl"],
                curve.means["gold"],
                color=colour,
                linestyle=dashes,
                marker=mark,
                markersize=3.5,
                label=curve.condition,
            )
        ax.set_xlabel("KL from the start policy (nats a token)")
        ax.set_title("Gold reward by KL")
        ax.legend(loc="best")
    return figure


def _draw(ax: Axes, curve: ConditionCurve, name: str) -> None:
    colour, dashes, mark = _STYLES[curve.condition]
    ax.plot(
        curve.steps,
        curve.means[name],
        color=colour,
        linestyle=dashes,
        marker=mark,
        markersize=3.5,
        label=curve.condition,
    )
    ax.fill_between(
        curve.steps, curve.low[name], curve.high[name], color=colour, alpha=0.08, linewidth=0
    )
    if name == "gold" and curve.decline.onset is not None:
        onset = curve.decline.onset
        ax.plot(curve.steps[onset], curve.means[name][onset], "x", color=colour, markersize=9)
