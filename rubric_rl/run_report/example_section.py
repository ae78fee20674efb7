"""The held-out answers that changed most, early and late beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.observability.records import SampleRow
from rubric_rl.observability.report import CriterionChange
from rubric_rl.run_report.markup import (
    EMPTY,
    Cell,
    Html,
    cell,
    element,
    folded,
    join,
    paragraph,
    section,
    table,
    text,
)
from rubric_rl.run_report.records import ChangedExample, Run, VerdictChange
from rubric_rl.types import VerdictValue

_MAX_CHARACTERS = 6000


def examples_html(run: Run, *, level: int) -> Html:
    """Examples, then the criteria that changed most; a sentence if there are none."""
    if run.comparison is None:
        words = "Left out: it takes two held-out evaluations to compare."
        return section("Most changed answers", paragraph(words, "note"), level=level)
    if not run.examples:
        words = "No held-out answer has another reward in the last evaluation than in the first."
        examples = [paragraph(words, "note")]
    else:
        examples = [_example(example, level + 1) for example in run.examples]
    criteria = _criteria(run)
    return join(
        [
            section("Most changed answers", *examples, level=level),
            section("Most changed criteria", criteria, level=level),
        ]
    )


def _example(example: ChangedExample, level: int) -> Html:
    before, after = example.before, example.after
    title = f"{before.prompt_id}, sample {before.sample_index}: {example.gain:+.3f}"
    question = "\n\n".join(m.content for m in before.messages if m.role == "user")
    sides = (_answer("Step", row, example.is_anchored) for row in (before, after))
    changed = [change for change in example.verdicts if change.is_changed]
    same = len(example.verdicts) - len(changed)
    verdicts = _verdicts(changed) if changed else paragraph("No verdict changed.", "note")
    return section(
        title,
        folded("Prompt", element("pre", text(_cut(question)))),
        element("div", *sides, class_="sides"),
        verdicts,
        paragraph(f"{same} criteria with the same verdict.", "note") if same else EMPTY,
        level=level,
    )


def _answer(name: str, row: SampleRow, is_anchored: bool) -> Html:
    words = f"{name} {row.step}: reward {_reward(row.reward)}"
    if is_anchored:
        words += f", {_reward(row.anchor_reward)} under the first rubrics"
    if row.finish_reason == "length":
        words += ", cut at the limit"
    return element(
        "div", element("p", text(words), class_="note"), element("pre", text(_cut(row.completion)))
    )


def _reward(reward: float | None) -> str:
    return "unscored" if reward is None else f"{reward:.3f}"


def _cut(words: str) -> str:
    words = words.strip("\n")
    if len(words) <= _MAX_CHARACTERS:
        return words
    return f"{words[:_MAX_CHARACTERS]}\n... ({len(words) - _MAX_CHARACTERS} characters more)"


def _verdicts(changes: Sequence[VerdictChange]) -> Html:
    rows = [
        (
            change.cid,
            _criterion(change),
            _verdict(change.before),
            _verdict(change.after),
            f"{change.weight:g}" + ("" if change.polarity == 1 else ", bad to meet"),
            change.reason,
        )
        for change in changes
    ]
    head = ("id", "criterion", "early", "late", "weight", "the judge's reason, late")
    return table(head, rows, caption="Verdicts that changed")


def _criterion(change: VerdictChange) -> Cell:
    old, new = change.before_text, change.after_text
    if old == new:
        return cell(element("div", text(new or ""), class_="words"))
    parts: list[Html] = []
    if old is not None:
        parts.append(element("del", text(old)))
    if new is not None:
        parts.append(element("ins", text(new)))
    return cell(element("div", join(parts, " "), class_="words"))


def _verdict(verdict: VerdictValue | None) -> Cell:
    if verdict is None:
        return cell(text("not in the rubric"))
    return cell(element("span", text(verdict.value), class_=verdict.value))


# ----------------------------------------------------------------------------
# Criteria


def _criteria(run: Run) -> Html:
    assert run.comparison is not None
    changes = (*run.comparison.most_gained, *run.comparison.most_lost)
    if not changes:
        return EMPTY
    return table(
        ("prompt and id", "criterion", "change", "came out well", "weight"),
        [_change(change) for change in changes],
        caption="Criteria of both evaluations that came out well more or less often",
        numbers=3,
    )


def _change(change: CriterionChange) -> tuple[str, str, str, str, str]:
    return (
        f"{change.prompt_id} / {change.cid}",
        cell(element("div", text(change.text), class_="words")),
        f"{change.change:+.0%}",
        f"{change.good_before:.0%} to {change.good_after:.0%}",
        f"{change.weight:g}",
    )
