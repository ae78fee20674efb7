"""`rubric-rl rubrics log|diff`: how a rubric came to be, why, and what it did to ties.

rubric-rl rubrics log STORE              one line for each prompt
rubric-rl rubrics log STORE PROMPT_ID    every revision of one rubric
rubric-rl rubrics diff STORE PROMPT_ID [FROM] [TO]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rubric_rl.errors import DataError
from rubric_rl.observability.printable import printable
from rubric_rl.refinement.records import GateFigures, Operation, Revision
from rubric_rl.refinement.store import FILE_NAME, RubricStore
from rubric_rl.types import Criterion, Rubric


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_args(argv)
    if not (args.store / FILE_NAME).is_file():
        raise DataError(
            f"{args.store} holds no rubric store ({FILE_NAME}): give the folder `rubrics` of a run "
            "or what `rubric-rl rubrics build --store` was given"
        )
    store = RubricStore(args.store)
    if args.command == "diff":
        lines = diff_lines(*_versions(store, args.prompt_id, args.first, args.last))
    elif args.prompt_id is None:
        lines = _overview(store)
    else:
        lines = log_lines(_history(store, args.prompt_id))
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl rubrics", description="Histories of rubrics in a store."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    log = commands.add_parser("log", help="every revision, and why")
    log.add_argument("store", metavar="STORE", type=Path)
    log.add_argument("prompt_id", metavar="PROMPT_ID", nargs="?")
    diff = commands.add_parser("diff", help="what changed between two versions")
    diff.add_argument("store", metavar="STORE", type=Path)
    diff.add_argument("prompt_id", metavar="PROMPT_ID")
    diff.add_argument("first", metavar="FROM", type=int, nargs="?", help="default: the first")
    diff.add_argument("last", metavar="TO", type=int, nargs="?", help="default: the newest")
    return parser


def _history(store: RubricStore, prompt_id: str) -> tuple[Revision, ...]:
    history = store.history(prompt_id)
    if not history:
        known = ", ".join(store.prompt_ids[:10])
        raise DataError(
            f"{store.path} knows no prompt {prompt_id!r}; it has {len(store.prompt_ids)}, such as "
            f"{known}"
        )
    return history


def _versions(
    store: RubricStore, prompt_id: str, first: int | None, last: int | None
) -> tuple[Rubric, Rubric]:
    _history(store, prompt_id)
    versions = {rubric.version: rubric for rubric in store.versions(prompt_id)}
    wanted = (min(versions) if first is None else first, max(versions) if last is None else last)
    for version in wanted:
        if version not in versions:
            raise DataError(
                f"prompt {prompt_id!r} has no version {version}, it has {sorted(versions)}"
            )
    return versions[wanted[0]], versions[wanted[1]]


# ----------------------------------------------------------------------------
# Lines


def _overview(store: RubricStore) -> Iterator[str]:
    yield (
        f"{'prompt':<24} {'version':>7} {'criteria':>8} {'accepted':>8} {'rejected':>8} "
        f"{'failed':>6}"
    )
    for prompt_id in store.prompt_ids:
        history, head = store.history(prompt_id), store.head(prompt_id)
        counts = [sum(r.status == s for r in history) for s in ("accepted", "rejected", "failed")]
        version = "-" if head is None else head.version
        criteria = 0 if head is None else len(head.criteria)
        yield (
            f"{prompt_id:<24} {version:>7} {criteria:>8} {counts[0]:>8} {counts[1]:>8} "
            f"{counts[2]:>6}"
        )


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
