"""How the rubrics changed: pass by pass, criterion by criterion, and what was refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rubric_rl.refinement.describe import gate_words, operation_lines
from rubric_rl.refinement.records import Operation, Revision
from rubric_rl.run_report.markup import (
    EMPTY,
    Html,
    element,
    folded,
    join,
    note,
    section,
    table,
    text,
)
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.scale import number
from rubric_rl.types import Criterion

NUM_PROMPTS_SHOWN, NUM_REFUSED_SHOWN, NUM_REASONS_SHOWN = 12, 40, 10

_PASS = {
    "prompts": "rubric/refined_prompts",
    "accepted": "rubric/accepted",
    "refused": "rubric/rejected",
    "failed": "rubric/failed",
    "tied at the top before": "rubric/top_ties_before",
    "after": "rubric/top_ties_after",
    "criteria": "rubric/criteria_mean",
    "USD": "rubric/usd",
}
_DONE = {
    "add": "added",
    "rewrite": "reworded",
    "split": "split",
    "merge": "merged",
    "delete": "removed",
}


def rubrics_html(run: Run, *, level: int) -> Html:
    """All of it, or a sentence that says why there is nothing."""
    if run.revisions is None:
        words = "There is no rubric store (rubrics/store.jsonl) to read: no rubric was refined."
        return section("Rubrics", note(words), level=level)
    return section(
        "Rubrics", _passes(run), _changed(run, level + 1), _refused(run, level + 1), level=level
    )


def _passes(run: Run) -> Html:
    rows = [
        [str(s.step), *(number(s.values[m]) if m in s.values else "-" for m in _PASS.values())]
        for s in run.steps
        if "rubric/refined_prompts" in s.values
    ]
    if not rows:
        return note("No refinement was completed.")
    title = "Refinements: what was proposed, and how many answers share the best score"
    return table(title, ("after step", *_PASS), rows, numbers=len(_PASS))


# ----------------------------------------------------------------------------
# What changed


class Change(NamedTuple):
    """An accepted revision, and the criteria by id that it was made from."""

    revision: Revision
    parent: Mapping[str, Criterion]


def accepted_changes(history: Sequence[Revision]) -> list[Change]:
    """Each accepted revision of a rubric, oldest first."""
    changes: list[Change] = []
    current: Mapping[str, Criterion] = {}
    for revision in history:
        if revision.status in ("initial", "accepted") and revision.rubric is not None:
            if revision.status == "accepted":
                changes.append(Change(revision, current))
            current = {criterion.cid: criterion for criterion in revision.rubric.criteria}
    return changes


def _ties_broken(changes: Sequence[Change]) -> int:
    """Pairs at the top that the gate saw told apart."""
    gates = [gate for change in changes if (gate := change.revision.gate) is not None]
    return sum(gate.top_ties_before - gate.top_ties_after for gate in gates)


def _changed(run: Run, level: int) -> Html:
    histories = run.revisions or {}
    changed = [(p, own) for p, history in histories.items() if (own := accepted_changes(history))]
    if not changed:
        return note("No rubric was changed.")
    changed.sort(key=lambda entry: (-_ties_broken(entry[1]), entry[0]))
    shown = changed[:NUM_PROMPTS_SHOWN]
    words = f"{len(changed)} of {len(histories)} rubrics were changed. "
    if len(shown) < len(changed):
        words += f"Shown are the {len(shown)} in which most ties were broken. "
    words += f"Everything: rubric-rl rubrics log {run.path / 'rubrics'} PROMPT_ID"
    prompts = (
        folded(
            f"{prompt_id}: version {own[0].revision.parent_version} to {own[-1].revision.version}",
            *(_change(change) for change in own),
            is_open=i == 0,
        )
        for i, (prompt_id, own) in enumerate(shown)
    )
    return section("Changes by version", note(words), *prompts, level=level)


def _change(change: Change) -> Html:
    revision = change.revision
    title = (
        f"Version {revision.version}, {revision.phase}, round {revision.round}, by "
        f"{revision.author}"
    )
    lines = [line for o in revision.operations for line in _operation(o, change.parent)]
    return join(
        [
            element("h4", text(title)),
            element("ul", *lines, class_="changes"),
            _evidence(revision),
            note(f"Gate: {gate_words(revision.gate)}.") if revision.gate else EMPTY,
        ]
    )


def _operation(operation: Operation, parent: Mapping[str, Criterion]) -> Iterator[Html]:
    """What an operation does, old words before new ones; nothing for keep."""
    if operation.op == "keep":
        return
    sources = [parent[cid] for cid in operation.sources if cid in parent]
    because = f"because {operation.reason}" if operation.reason else ""
    parts = [
        element("span", text(_DONE[operation.op]), class_="op"),
        *(element("del", text(f"({c.weight:g}) {c.text}")) for c in sources),
        *(element("ins", text(f"({c.weight:g}) {c.text}")) for c in operation.criteria),
        element("span", text(because), class_="note"),
    ]
    yield element("li", join(parts, " "))


def _evidence(revision: Revision) -> Html:
    def score(scores: Sequence[float | None], position: int) -> str:
        value = scores[position] if position < len(scores) else None
        return "unscored" if value is None else f"{value:.3f}"

    answers = [
        f"{answer} ({score(revision.scores_before, i)} to {score(revision.scores_after, i)})"
        for i, answer in enumerate(revision.evidence)
    ]
    words = f"Contrasted, with the score before and after: {' and '.join(answers)}."
    return note(words) if answers else EMPTY


# ----------------------------------------------------------------------------
# What was refused


def refusal_kinds(revisions: Sequence[Revision]) -> list[tuple[str, int]]:
    """Reasons with figures as N, most frequent first; a revision may have several."""
    kinds = Counter(
        re.sub(r"\d+(?:\.\d+)?", "N", reason.partition("\n")[0])
        for revision in revisions
        for reason in revision.reasons
    )
    return kinds.most_common()


def _refused(run: Run, level: int) -> Html:
    histories = (run.revisions or {}).values()
    refused = [r for history in histories for r in history if r.status in ("rejected", "failed")]
    if not refused:
        return EMPTY
    kinds = [(reason, str(n)) for reason, n in refusal_kinds(refused)[:NUM_REASONS_SHOWN]]
    rows = [
        (
            r.prompt_id,
            f"{r.phase}, round {r.round}",
            "refused" if r.status == "rejected" else r.status,
            "; ".join(r.reasons),
            "; ".join(line for o in r.operations for line in operation_lines(o)),
        )
        for r in refused[:NUM_REFUSED_SHOWN]
    ]
    head = ("prompt", "when", "outcome", "why", "what it would have done")
    return section(
        "Refused",
        table("Why", ("reason", "proposals"), kinds, numbers=1),
        folded(f"{len(rows)} of {len(refused)} proposals", table("Proposals", head, rows)),
        level=level,
    )
