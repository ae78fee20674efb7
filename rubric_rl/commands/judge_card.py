"""`rubric-rl judge card`: how far a judge can be trusted, from graded files.

rubric-rl judge card small.jsonl large.jsonl --out card.json --html card.html
rubric-rl judge card small.jsonl --labels labels.jsonl --repeat again.jsonl --out card.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rubric_rl.commands.dry_run import tell, tell_outputs
from rubric_rl.errors import DataError
from rubric_rl.judging.agreement import Estimate
from rubric_rl.judging.comparison import Graded, Label, one_judge, read_labels
from rubric_rl.judging.graded_rows import read_graded
from rubric_rl.judging.judge_card import JudgeCard, make_card
from rubric_rl.judging.judge_card_html import card_html
from rubric_rl.observability.atomic import write_text_atomic

_EPILOG = """\
A, B and the other graded files are what `rubric-rl judge --out` writes, on the same
answers. A repeat is A graded once more into another file, with
judge.cache.enabled=false. Labels are JSONL: {"id": ..., "cid": ..., "met": true}.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_args(argv)
    judge = _graded(args.judge)
    repeat = None if args.repeat is None else _graded(args.repeat)
    modes = [_graded(path) for path in args.modes]
    other = _other(args, judge)
    if args.dry_run:
        tell(f"{args.judge} would be compared with {args.labels or args.other}")
        tell_outputs(args.out, args.html)
        return 0
    card = make_card(judge, other, repeat=repeat, modes=modes, seed=args.seed)
    _write(args.out, f"{json.dumps(dataclasses.asdict(card), indent=2, allow_nan=False)}\n")
    if args.html is not None:
        _write(args.html, card_html(card))
    _print(card)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl judge card",
        description="Agreement between two judges, or a judge and labels.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("judge", metavar="A", type=Path, help="graded file of the judge")
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("other", metavar="B", type=Path, nargs="?", help="of another judge")
    other.add_argument("--labels", type=Path, help="what is right, in place of B")
    parser.add_argument("--repeat", type=Path, help="the judge's second grading, for flips")
    parser.add_argument(
        "--modes", type=Path, nargs="+", default=[], help="its gradings in other modes, for drift"
    )
    parser.add_argument("--out", type=Path, required=True, help="the card as JSON")
    parser.add_argument("--html", type=Path, help="the card as a page")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--dry-run", action="store_true", help="read and check; write nothing")
    return parser


def _graded(path: Path) -> Graded:
    return one_judge(path.name, read_graded(path))


def _other(args: argparse.Namespace, judge: Graded) -> Graded | tuple[str, Sequence[Label]]:
    if args.labels is None:
        return _graded(args.other)
    return args.labels.name, read_labels(args.labels, judge)


def _write(path: Path, text: str) -> None:
    # A judge's reason may hold half a surrogate pair, which no file takes.
    text = text.encode("utf-8", "replace").decode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, text)
    except OSError as err:
        raise DataError(f"{str(path)!r} can't be written: {err}") from err


def _print(card: JudgeCard) -> None:
    table = Table("figure", "value", "95 % interval", "over")
    for name, estimate in _lines(card):
        value = "-" if estimate.value is None else f"{estimate.value:.4g}"
        interval = (
            "-"
            if estimate.low is None or estimate.high is None
            else f"{estimate.low:.4g} .. {estimate.high:.4g}"
        )
        table.add_row(name, value, interval, str(estimate.num))
    Console(file=sys.stdout, highlight=False).print(table)


def _lines(card: JudgeCard) -> Iterable[tuple[str, Estimate]]:
    yield "accuracy", card.accuracy
    yield "macro-F1", card.macro_f1
    yield "kappa", card.kappa
    if card.calibration is not None:
        yield "ECE", card.calibration.ece
    yield "unknown", card.judge.unknown_share
    if card.other is not None:
        yield "unknown, other side", card.other.unknown_share
    yield "$ per verdict", card.judge.cost_per_verdict_usd
    if card.repeat is not None:
        yield "flipped on repeat", card.repeat.flip_rate
    for drift in card.modes:
        yield f"flipped, {drift.left} to {drift.right}", drift.flip_rate
