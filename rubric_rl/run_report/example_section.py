"""The held-out answers that changed most, early and late beside each other."""

from __future__ import annotations

from rubric_rl.observability.records import CriterionRow, SampleRow
from rubric_rl.observability.report import is_good
from rubric_rl.run_report.markup import (
    EMPTY,
    Cell,
    Html,
    element,
    folded,
    join,
    note,
    section,
    table,
    text,
)
from rubric_rl.run_report.records import ChangedExample, Run
from rubric_rl.types import VerdictValue

_MAX_CHARACTERS = 6000


def examples_html(run: Run, *, level: int) -> Html:
    """The examples, or a sentence if there are none."""
    title = "Most changed answers"
    if run.comparison is None:
        words = "Left out: it takes two held-out evaluations to compare."
        return section(title, note(words), level=level)
    examples = [_example(example, level + 1) for example in run.examples]
    none = note("No held-out answer has another reward at the end than at the start.")
    return section(title, *(examples or [none]), level=level)


def _example(example: ChangedExample, level: int) -> Html:
    before, after = example.before, example.after
    question = "\n\n".join(m.content for m in before.messages if m.role == "user")
    changed = [pair for pair in example.criteria if _outcome(pair[0]) != _outcome(pair[1])]
    num_same = len(example.criteria) - len(changed)
    head = ("id", "criterion", "weight", "early", "late", "the judge's reason, late")
    rows = [_verdicts(old, new) for old, new in changed]
    return section(
        f"{before.prompt_id}, sample {before.sample_index}: {example.gain:+.3f}",
        folded("Prompt", element("pre", text(_cut(question)))),
        element("div", _answer(before), _answer(after), class_="sides"),
        table("Verdicts that changed", head, rows) if rows else EMPTY,
        note(f"Criteria with the same words and verdict: {num_same}."),
        level=level,
    )


def _outcome(criterion: CriterionRow | None) -> tuple[str, str] | None:
    return None if criterion is None else (criterion.text, criterion.verdict)


def _answer(row: SampleRow) -> Html:
    words = f"Step {row.step}: reward {_reward(row.reward)}"
    if row.anchor_reward is not None:
        words += f", {_reward(row.anchor_reward)} under the first rubrics"
    if row.finish_reason == "length":
        words += ", cut at the limit"
    return element("div", note(words), element("pre", text(_cut(row.completion))))


def _reward(reward: float | None) -> str:
    return "unscored" if reward is None else f"{reward:.3f}"


def _cut(words: str) -> str:
    words, rest = words[:_MAX_CHARACTERS], len(words) - _MAX_CHARACTERS
    return f"{words}\n... ({rest} characters more)" if rest > 0 else words


def _verdicts(old: CriterionRow | None, new: CriterionRow | None) -> list[str]:
    current = new or old
    assert current is not None, "a criterion of neither rubric"
    if old is not None and new is not None and old.text == new.text:
        words = [text(new.text)]
    else:
        words = [element("del", text(old.text))] if old else []
        words += [element("ins", text(new.text))] if new else []
    return [
        current.cid,
        Cell(element("div", join(words, " "), class_="words")),
        f"{current.weight:g}" + ("" if current.polarity == 1 else ", bad to meet"),
        _verdict(old),
        _verdict(new),
        new.reason if new else "",
    ]


def _verdict(criterion: CriterionRow | None) -> Cell:
    if criterion is None:
        return Cell("not in the rubric")
    is_known = criterion.verdict is not VerdictValue.UNKNOWN
    outcome = ("good" if is_good(criterion) else "bad") if is_known else "note"
    return Cell(element("span", text(criterion.verdict.value), class_=outcome))
