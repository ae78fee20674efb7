"""How the rubrics changed: pass by pass, criterion by criterion, and what was refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rubric_rl.refinement.describe import gate_words
from rubric_rl.refinement.records import Operation, Revision
from rubric_rl.run_report.markup import (
    EMPTY,
    Html,
    element,
    folded,
    join,
    paragraph,
    section,
    table,
    text,
)
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.scale import number
from rubric_rl.types import Criterion

NUM_PROMPTS_SHOWN = 12
NUM_REFUSALS_SHOWN = 40

Histories = Mapping[str, Sequence[Revision]]


def rubrics_html(run: Run, *, level: int) -> Html:
    """All of it, or a sentence that says why there is nothing."""
    if run.revisions is None:
        words = (
            "This run keeps no rubric store (rubrics/store.jsonl): its rubrics were not refined."
        )
        return section("Rubrics", paragraph(words, "note"), level=level)
    return section(
        "Rubrics",
        _passes(run),
        _changed(run.revisions, run.path, level + 1),
        _refused(run.revisions, level + 1),
        level=level,
    )


# ----------------------------------------------------------------------------
# Passes

_PASS = (
    ("prompts", "rubric/refined_prompts"),
    ("accepted", "rubric/accepted"),
    ("refused", "rubric/rejected"),
    ("failed", "rubric/failed"),
    ("tied at the top before", "rubric/top_ties_before"),
    ("after", "rubric/top_ties_after"),
    ("criteria", "rubric/criteria_mean"),
    ("USD", "rubric/usd"),
)


def _passes(run: Run) -> Html:
    rows = [
        [
            str(line.step),
            *(number(line.values[m]) if m in line.values else "-" for _, m in _PASS),
        ]
        for line in run.steps
        if "rubric/refined_prompts" in line.values
    ]
    if not rows:
        return paragraph("No refinement has been completed.", "note")
    head = ("after step", *(name for name, _ in _PASS))
    caption = "Refinements: proposals accepted and refused, answers that share the best score"
    return table(head, rows, caption=caption, numbers=len(_PASS))


# ----------------------------------------------------------------------------
# What changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An accepted revision with the criteria that it was made from."""

    revision: Revision
    parent: Mapping[str, Criterion]
    """By id."""


def accepted_steps(history: Sequence[Revision]) -> tuple[Step, ...]:
    """Each accepted revision with its parent, oldest first."""
    steps: list[Step] = []
    current: Mapping[str, Criterion] = {}
    for revision in history:
        if revision.status not in ("initial", "accepted") or revision.rubric is None:
            continue
        if revision.status == "accepted":
            steps.append(Step(revision=revision, parent=current))
        current = {criterion.cid: criterion for criterion in revision.rubric.criteria}
    return tuple(steps)


def ties_broken(history: Sequence[Revision]) -> int:
    """Pairs at the top that the accepted revisions of a prompt told apart, by the gate."""
    gates = [r.gate for r in history if r.status == "accepted" and r.gate is not None]
    return sum(gate.top_ties_before - gate.top_ties_after for gate in gates)


def _changed(histories: Histories, path: object, level: int) -> Html:
    changed = [(p, steps) for p, own in histories.items() if (steps := accepted_steps(own))]
    if not changed:
        return paragraph("No rubric was changed.", "note")
    changed.sort(key=lambda entry: (-ties_broken(histories[entry[0]]), entry[0]))
    shown = changed[:NUM_PROMPTS_SHOWN]
    words = f"{len(changed)} of {len(histories)} rubrics were changed."
    if len(shown) < len(changed):
        words += f" Shown are the {len(shown)} that told most ties apart."
    words += f" Everything: rubric-rl rubrics log {path}/rubrics PROMPT_ID"
    return section(
        "Changes by version",
        paragraph(words, "note"),
        *(_prompt(prompt_id, steps, is_open=i == 0) for i, (prompt_id, steps) in enumerate(shown)),
        level=level,
    )


def _prompt(prompt_id: str, steps: Sequence[Step], *, is_open: bool) -> Html:
    first, last = steps[0].revision.parent_version, steps[-1].revision.version
    summary = element("summary", text(f"{prompt_id}: version {first} to {last}"))
    attributes = {"open": "open"} if is_open else {}
    return element("details", summary, *(_step(step) for step in steps), **attributes)


def _step(step: Step) -> Html:
    revision = step.revision
    title = (
        f"Version {revision.version}, {revision.phase}, round {revision.round}, by "
        f"{revision.author}"
    )
    changes = [item for o in revision.operations for item in _operation(o, step.parent)]
    return join(
        [
            element("h4", text(title)),
            element("ul", *changes, class_="changes"),
            _evidence(revision),
            paragraph(f"Gate: {gate_words(revision.gate)}.", "note") if revision.gate else EMPTY,
        ]
    )


def _evidence(revision: Revision) -> Html:
    if not revision.evidence:
        return EMPTY
    answers = [
        f"{candidate} ({_score(revision.scores_before, i)} to {_score(revision.scores_after, i)})"
        for i, candidate in enumerate(revision.evidence)
    ]
    words = f"Contrasted, with the score before and after: {' and '.join(answers)}."
    return paragraph(words, "note")


def _score(scores: Sequence[float | None], position: int) -> str:
    score = scores[position] if position < len(scores) else None
    return "unscored" if score is None else f"{score:.3f}"


def _operation(operation: Operation, parent: Mapping[str, Criterion]) -> Iterator[Html]:
    """A line for what an operation does; nothing for keep."""
    if operation.op == "keep":
        return
    # An operation that was refused may name ids that the rubric never had.
    old = [
        element("del", text(f"({parent[cid].weight:g}) {parent[cid].text}"))
        for cid in operation.sources
        if cid in parent
    ]
    new = [element("ins", text(f"({c.weight:g}) {c.text}")) for c in operation.criteria]
    because = [element("span", text(f"because {operation.reason}"), class_="note")]
    parts = [*old, *new, *(because if operation.reason else [])]
    name = _OPERATIONS[operation.op]
    yield element("li", element("span", text(name), class_="op"), text(" "), join(parts, " "))


_OPERATIONS = {
    "add": "added",
    "rewrite": "reworded",
    "split": "split",
    "merge": "merged",
    "delete": "removed",
}


# ----------------------------------------------------------------------------
# What was refused


def refused_revisions(histories: Histories) -> tuple[Revision, ...]:
    """Proposals that the gate refused or that could not be used."""
    return tuple(
        revision
        for history in histories.values()
        for revision in history
        if revision.status in ("rejected", "failed")
    )


def refusal_kinds(revisions: Sequence[Revision]) -> list[tuple[str, int]]:
    """Reasons with figures as N, most frequent first; a revision may have several."""
    kinds = Counter(
        re.sub(r"\d+(?:\.\d+)?", "N", reason.split("\n")[0])
        for revision in revisions
        for reason in revision.reasons
    )
    return kinds.most_common()


def _refused(histories: Histories, level: int) -> Html:
    refused = refused_revisions(histories)
    if not refused:
        return EMPTY
    kinds = [(reason, str(count)) for reason, count in refusal_kinds(refused)[:10]]
    shown = refused[:NUM_REFUSALS_SHOWN]
    rows = [
        (r.prompt_id, f"{r.phase}, round {r.round}", r.status, _why(r), _would(r)) for r in shown
    ]
    more = "" if len(shown) == len(refused) else f", the first {len(shown)}"
    return section(
        "Refused",
        table(("reason", "proposals"), kinds, caption="Why proposals were refused", numbers=1),
        folded(
            f"{len(refused)} proposals{more}",
            table(
                ("prompt", "when", "status", "why", "it would have"),
                rows,
                caption="Refused and failed proposals",
            ),
        ),
        level=level,
    )


def _why(revision: Revision) -> str:
    return "; ".join(revision.reasons) or "-"


def _would(revision: Revision) -> str:
    """The operations in words, as in `added Names a dose.`."""
    words = [
        f"{_OPERATIONS[o.op]} {' / '.join(c.text for c in o.criteria) or ', '.join(o.sources)}"
        for o in revision.operations
        if o.op != "keep"
    ]
    return "; ".join(words) or "-"
