"""`rubric-rl report RUN...`: one HTML file on a run, or on several beside each other.

rubric-rl report runs/first                               writes report.html
rubric-rl report runs/first runs/second --out both.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rubric_rl.commands.dry_run import tell_outputs
from rubric_rl.errors import DataError
from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.observability.printable import printable
from rubric_rl.run_report.page import report_html
from rubric_rl.run_report.read_run import read_runs


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises DataError."""
    args = _parser().parse_args(argv)
    _refuse_place(args.out)
    runs = read_runs(args.runs)
    if args.dry_run:
        tell_outputs(args.out)
        return 0
    page = report_html(runs)
    try:
        write_text_atomic(args.out, page)
    except OSError as err:
        raise DataError(f"--out {str(args.out)!r} can't be written: {err}") from err
    for run in runs:
        sys.stderr.write("".join(printable(f"{run.label}: {note}\n") for note in run.notes))
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    sys.stdout.write(printable(f"{args.out}: {count}, {len(page) / 1024:,.0f} KiB\n"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl report",
        description="One HTML file on a run, or on several beside each other, that opens offline.",
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder (run.dir)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("report.html"),
        help="what to write, over an earlier one (default: report.html)",
    )
    parser.add_argument("--dry-run", action="store_true", help="read the runs; write nothing")
    return parser


def _refuse_place(out: Path) -> None:
    """Before anything is read: a long run takes a while."""
    if out.is_dir():
        raise DataError(
            f"--out {str(out)!r} is a folder: give the name of a file, as {out}/report.html"
        )
    if not out.parent.is_dir():
        raise DataError(
            f"--out {str(out)!r}: there is no folder {str(out.parent)!r}, make it first"
        )
    if out.suffix not in (".html", ".htm"):
        raise DataError(f"--out {str(out)!r} is an HTML file: give it a name that ends in .html")
