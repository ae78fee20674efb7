"""Revisions in words: what was contrasted, what changed, what the gate measured, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rubric_rl.refinement.records import GateFigures, Operation, Revision
from rubric_rl.refinement.store import RubricStore
from rubric_rl.types import Criterion, Rubric


def log_lines(history: Sequence[Revision]) -> Iterator[str]:
    """A rubric's revisions, newest last, each with its evidence, its changes and its figures."""
    for revision in history:
        if revision.status == "proposed":
            continue  # what became of it comes next
        yield (
            f"version {revision.version} {revision.status} by {revision.author} "
            f"({revision.phase}, round {revision.round})"
        )
        if revision.status == "initial":
            yield from (f"    {line}" for line in rubric_lines(revision.rubric))
        if revision.evidence:
            yield f"    contrasted {' and '.join(revision.evidence)}"
        yield from (f"    {line}" for o in revision.operations for line in operation_lines(o))
        if revision.gate is not None:
            yield f"    {gate_words(revision.gate)}"
        yield from (f"    because {reason}" for reason in revision.reasons)


def rubric_lines(rubric: Rubric | None) -> Iterator[str]:
    """A criterion a line."""
    for criterion in () if rubric is None else rubric.criteria:
        yield f"{criterion.cid} {_words(criterion)}"


def operation_lines(operation: Operation) -> Iterator[str]:
    """What an operation does, as in `+ (2) Names a dose.  [they differ]`; nothing for keep."""
    if operation.op == "keep":
        return
    reason = f"  [{operation.reason}]" if operation.reason else ""
    sources = ", ".join(operation.sources)
    if operation.op == "delete":
        yield f"- {sources}{reason}"
    for criterion in operation.criteria:
        mark = "+" if operation.op == "add" else f"{operation.op} {sources}:"
        yield f"{mark} ({criterion.weight:g}) {criterion.text}{reason}"


def gate_words(gate: GateFigures) -> str:
    """As in `top ties 3 -> 1 of 6, reversed 0 of 12, tail accuracy 0.50 -> 0.67`."""
    words = (
        f"top ties {gate.top_ties_before} -> {gate.top_ties_after} of {gate.num_top_pairs} pairs, "
        f"reversed {gate.num_reversed} of {gate.num_clear_pairs}, "
        f"the pair is {'ordered' if gate.pair_ordered else 'still tied'}"
    )
    if gate.tail_accuracy_before is None or gate.tail_accuracy_after is None:
        return words
    return (
        f"{words}, tail accuracy {gate.tail_accuracy_before:.2f} -> {gate.tail_accuracy_after:.2f}"
    )


def diff_lines(old: Rubric, new: Rubric) -> Iterator[str]:
    """Criteria that are gone, changed or new, by id."""
    before = {criterion.cid: criterion for criterion in old.criteria}
    after = {criterion.cid: criterion for criterion in new.criteria}
    yield f"{old.prompt_id}: version {old.version} -> {new.version}"
    num_same = 0
    for cid in [*before, *(cid for cid in after if cid not in before)]:
        was = _words(before[cid]) if cid in before else None
        now = _words(after[cid]) if cid in after else None
        if was == now:
            num_same += 1
            continue
        if was is not None:
            yield f"- {cid} {was}"
        if now is not None:
            yield f"+ {cid} {now}"
    yield f"{num_same} criteria unchanged"


def _words(criterion: Criterion) -> str:
    sign = "" if criterion.polarity == 1 else "bad, "
    kind = "" if criterion.kind == "normal" else f"{criterion.kind}, "
    return f"({kind}{sign}{criterion.weight:g}) {criterion.text}"


def telling_revision(store: RubricStore) -> Revision | None:
    """The accepted revision that broke most ties among the best; None if none was accepted."""
    accepted = [
        revision
        for prompt_id in store.prompt_ids
        for revision in store.history(prompt_id)
        if revision.status == "accepted" and revision.gate is not None
    ]
    return max(accepted, key=_ties_broken, default=None)


def _ties_broken(revision: Revision) -> int:
    assert revision.gate is not None
    return revision.gate.top_ties_before - revision.gate.top_ties_after
