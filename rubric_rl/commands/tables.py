"""`rubric-rl tables`: the paper's tables and figures from records of runs.

rubric-rl tables evals runs analysis.json --out tables --paper
rubric-rl tables evals runs --label 'runs/great:condition=great_pairs,domain=health' --dry-run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rubric_rl.commands.output_folder import OutputFolder
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.evaluation.prbench import MEANS
from rubric_rl.observability.printable import printable
from rubric_rl.paper_tables.cells import Filling, LeftOut, describe, fill
from rubric_rl.paper_tables.discovery import Found, LabelRule, find_records, parse_rule
from rubric_rl.paper_tables.layout import DOMAINS, LAYOUTS
from rubric_rl.paper_tables.measurement import Limits
from rubric_rl.paper_tables.published import published
from rubric_rl.paper_tables.render import (
    Exhibit,
    as_csv,
    as_markdown,
    as_sources,
    exhibit_of,
    source_line,
)

_EPILOG = """\
Records are the JSON of `rubric-rl eval` and `rubrics analyze`, and metrics.jsonl of runs. What
an evaluation is of is said when it is made,

  rubric-rl eval winrate ... --label condition=great_pairs --label domain=health --label step=106

or here, for files that don't say it:

  --label 'runs/great_pairs:condition=great_pairs,domain=health'

A record with a step is a point of Figure 4. Tables show those without one, and those of the
steps of --table-step. Table 3 is of an analysis of two stores called good and great; Figures 5
and 6 of one of great_diverse_pairs. A cell without a record stays empty.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What was asked for, checked."""

    records: tuple[Path, ...]
    out: Path | None
    """None: only tell what would be written."""
    exhibits: tuple[str, ...]
    rules: tuple[LabelRule, ...]
    steps: dict[str, int]
    limits: Limits
    paper: bool
    latest: bool


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    job = _job(_parser().parse_args(argv))
    found = find_records(job.records, job.rules, job.limits)
    filling = fill(found.records, job.exhibits, steps=job.steps, latest=job.latest)
    paper = published() if job.paper else {}
    exhibits = [exhibit_of(name, filling, paper) for name in job.exhibits]
    if job.out is None:
        sys.stdout.write(printable(_plan(exhibits)))
    else:
        _write(OutputFolder(job.out), exhibits, (*found.refused, *filling.left_out))
    sys.stdout.write(printable(_account(exhibits, found, filling)))
    if found.refused:
        raise DataError(
            f"{len(found.refused)} records can't be used, see above: the cells that they would "
            "fill are empty"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl tables",
        description="Tables 1, 2, 3 and 6 and Figures 2, 4, 5 and 6 of the paper, from records.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "records", nargs="*", type=Path, metavar="PATH", help="files with records, or folders"
    )
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument(
        "--only", default=",".join(LAYOUTS), help="some of them, with commas (default: %(default)s)"
    )
    parser.add_argument("--paper", action="store_true", help="put the paper's figures beside ours")
    parser.add_argument(
        "--latest", action="store_true", help="of several records for a cell take the newest file"
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="FILE:KEY=VALUE,...",
        help="condition, domain or step of records that don't say it; FILE may hold *, or be a "
        "folder; may be repeated",
    )
    parser.add_argument(
        "--table-step",
        action="append",
        default=[],
        metavar="DOMAIN=STEP",
        help="the tables also show records of this step, such as health=106; may be repeated",
    )
    parser.add_argument(
        "--prbench-mean",
        choices=MEANS,
        default=MEANS[0],
        help="which of the benchmark's means; the paper doesn't say (default: %(default)s)",
    )
    parser.add_argument(
        "--min-coverage",
        type=float,
        default=Limits().min_coverage,
        help="share of pairs or answers that must be judged (default: %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list which cells would be filled from which file"
    )
    return parser


def _job(args: argparse.Namespace) -> _Job:
    if args.out is None and not args.dry_run:
        raise ConfigError("--out is missing: name a folder to write to, or give --dry-run")
    if not 0 <= args.min_coverage <= 1:
        raise ConfigError(f"--min-coverage {args.min_coverage:g}: want a share, from 0 to 1")
    exhibits = args.only.split(",")
    for name in exhibits:
        if name not in LAYOUTS:
            raise ConfigError(f"--only {name!r}: want some of {', '.join(LAYOUTS)}")
    return _Job(
        records=tuple(args.records),
        out=None if args.dry_run else args.out,
        exhibits=tuple(name for name in LAYOUTS if name in exhibits),
        rules=tuple(map(parse_rule, args.label)),
        steps=dict(map(_table_step, args.table_step)),
        limits=Limits(min_coverage=args.min_coverage, prbench_mean=args.prbench_mean),
        paper=args.paper,
        latest=args.latest,
    )


def _table_step(text: str) -> tuple[str, int]:
    domain, _, step = text.partition("=")
    if domain not in DOMAINS or not (step.isascii() and step.isdigit()):
        raise ConfigError(f"--table-step {text!r}: want DOMAIN=STEP, of {', '.join(DOMAINS)}")
    return domain, int(step)


# ----------------------------------------------------------------------------
# Output


def _write(folder: OutputFolder, exhibits: Sequence[Exhibit], left_out: Sequence[LeftOut]) -> None:
    for exhibit in exhibits:
        name = exhibit.name
        if LAYOUTS[name].is_figure:
            # Here because it takes long to import.
            from rubric_rl.commands.tables_figures import drawn

            for file, content in drawn(exhibit):
                folder.write(file, content)
        else:
            folder.write(f"{name}.md", as_markdown(exhibit))
        if LAYOUTS[name].columns:
            folder.write(f"{name}.csv", as_csv(exhibit))
        folder.write(f"{name}.sources.json", as_sources(exhibit, left_out))
    sys.stdout.write(folder.account())


def _plan(exhibits: Sequence[Exhibit]) -> str:
    """A line for each cell that would be filled."""
    cells = [cell for exhibit in exhibits for cell in exhibit.cells]
    return "".join(f"{describe(cell.key)}: {source_line(cell)}\n" for cell in cells)


def _account(exhibits: Sequence[Exhibit], found: Found, filling: Filling) -> str:
    lines = [f"{len(found.records)} records, {len(found.refused)} refused"]
    for exhibit in exhibits:
        layout, num = LAYOUTS[exhibit.name], len(exhibit.cells)
        if layout.is_figure and not layout.columns:
            lines.append(f"{exhibit.name}:")
        elif layout.is_figure:
            lines.append(f"{exhibit.name}: {num} values")
        else:
            lines.append(f"{exhibit.name}: {num} of {len(layout.rows) * len(layout.columns)} cells")
        lines += [f"  {note}" for note in exhibit.notes]
    lines += [f"not used: {item.path}: {item.reason}" for item in filling.left_out]
    lines += [f"refused: {item.path}: {item.reason}" for item in found.refused]
    return "\n".join(lines) + "\n"
