"""The card on a judge as one HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from rubric_rl.judging.agreement import Estimate
from rubric_rl.judging.judge_card import Calibration, Drift, JudgeCard, Side
from rubric_rl.observability.printable import printable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d9dee6;
         vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; }
p.note { color: #566173; }
"""
_MAX_TEXT_CHARS = 400


def card_html(card: JudgeCard) -> str:
    """The whole page. Every text of a file is escaped: models wrote some of it."""
    parts = [
        f"<h1>Judge card: {_text(card.judge.judge_id)}</h1>",
        f"<p>{_text(card.judge.file)} beside {_text(_other_name(card))}: "
        f"{card.num_pairs} criterion verdicts on {card.num_prompts} prompts. "
        f"{card.num_left_out_unknown} were left out because a side is unknown, "
        f"{card.num_unpaired} have no counterpart.</p>",
        _agreement(card),
        _sides([card.judge] if card.other is None else [card.judge, card.other]),
    ]
    if card.calibration is not None:
        parts.append(_calibration(card.calibration))
    if card.repeat is not None:
        parts.append(_drifts("Repeat: the same question again", [card.repeat]))
    if card.modes:
        parts.append(_drifts("Drift between modes", card.modes))
    if card.disagreements:
        parts.append(_disagreements(card))
    parts.append(
        f'<p class="note">In brackets: 95 % intervals by a bootstrap over prompts '
        f"({card.num_resamples} resamples, seed {card.seed}). A dash: not defined.</p>"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Judge card</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _other_name(card: JudgeCard) -> str:
    if card.other is None:
        return f"labels {card.labels}"
    return f"{card.other.file} ({card.other.judge_id})"


def _agreement(card: JudgeCard) -> str:
    figures = [
        ("Accuracy", card.accuracy),
        ("Macro-F1", card.macro_f1),
        ("Cohen's kappa", card.kappa),
    ]
    if card.calibration is not None:
        figures.append(("ECE", card.calibration.ece))
    counts = [
        ("judge: met", card.judged_met_truth_met, card.judged_met_truth_unmet),
        ("judge: unmet", card.judged_unmet_truth_met, card.judged_unmet_truth_unmet),
    ]
    return (
        "<h2>Agreement</h2>"
        + _table(
            ("figure", "value"), [(_text(name), _estimate(figure)) for name, figure in figures]
        )
        + _table(
            ("", "other side: met", "other side: unmet"),
            [(name, str(met), str(unmet)) for name, met, unmet in counts],
        )
    )


def _sides(sides: Sequence[Side]) -> str:
    rows = [
        (
            _text(side.file),
            _text(side.judge_id),
            _text(side.mode),
            str(side.num_answers),
            str(side.num_verdicts),
            _estimate(side.unknown_share),
            _text(", ".join(f"{cause} {n}" for cause, n in side.unknown_causes.items()) or "-"),
            _estimate(side.cost_per_verdict_usd, "{:.3g}"),
        )
        for side in sides
    ]
    head = ("file", "judge", "mode", "answers", "verdicts", "unknown", "causes", "$ per verdict")
    return "<h2>Sides</h2>" + _table(head, rows)


def _calibration(calibration: Calibration) -> str:
    rows = [
        (
            f"{b.low:.1f} to {b.high:.1f}",
            str(b.num),
            _number(b.mean_probability),
            _number(b.met_share),
        )
        for b in calibration.bins
    ]
    head = ("probability of met", "verdicts", "mean probability", "met by the other side")
    return "<h2>Calibration</h2>" + _table(head, rows)


def _drifts(title: str, drifts: Iterable[Drift]) -> str:
    rows = [
        (
            _text(drift.left),
            _text(drift.right),
            str(drift.flip_rate.num),
            _estimate(drift.flip_rate),
            _estimate(drift.met_shift, "{:+.3f}"),
            _estimate(drift.kappa),
        )
        for drift in drifts
    ]
    head = ("left", "right", "verdicts", "flipped", "met more often on the left", "kappa")
    return f"<h2>{title}</h2>" + _table(head, rows)


def _disagreements(card: JudgeCard) -> str:
    rows = [
        (_text(d.row_id), _text(d.text), _text(d.judged.value), _text(d.reason))
        for d in card.disagreements
    ]
    head = ("answer", "criterion", "judge says", "because")
    return "<h2>Disagreements, the first few</h2>" + _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{header}</tr>{body}</table>"


def _estimate(estimate: Estimate, form: str = "{:.3f}") -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return form.format(estimate.value)
    low, high = form.format(estimate.low), form.format(estimate.high)
    return f"{form.format(estimate.value)} [{low}, {high}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _text(text: str) -> str:
    if len(text) > _MAX_TEXT_CHARS:
        text = f"{text[:_MAX_TEXT_CHARS]}..."
    return escape(printable(text))
