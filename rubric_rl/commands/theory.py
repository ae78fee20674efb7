"""`rubric-rl theory`: what rubrics can and can't do, from Theorem 1 and from a pool of answers.

    rubric-rl theory                            reference values, ours beside them
    rubric-rl theory figure2 --out figures      Figure 2: PNG, SVG and CSV
    rubric-rl theory estimate POOL --rubrics prompts.jsonl --out estimate

Theorem and figure are those of arXiv 2509.21500.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rubric_rl.commands.dry_run import tell, tell_outputs
from rubric_rl.commands.output_folder import OutputFolder
from rubric_rl.theory import rerankings, theorem
from rubric_rl.theory.figure2 import figure2
from rubric_rl.theory.golden import (
    TOLERANCE,
    Comparison,
    CrossCheck,
    GoldenTable,
    cross_check,
    golden_tables,
)
from rubric_rl.theory.tilt import inverse_beta_at

_HELP = """\
  rubric-rl theory figure2 --out DIR      draw Figure 2
  rubric-rl theory estimate IN --out DIR  what a rubric will do to a policy, from a pool

`rubric-rl theory estimate --help` shows its arguments.
"""
# Above, the weight is on so few samples that their standard errors can't be trusted.
_CHECKED_NATS = (0.25, 0.5, 1.0, 2.0, 3.0)
_NUM_SAMPLES = 100_000
_BOUND_NATS = (0.5, 1.0, 2.0, 3.0)
_BOUND_SHARES = (0.1, 0.25, 0.4, 0.6, 0.8)
_EXIT_WRONG_VALUES = 1
_FIGURE2_FILES = (
    *(f"{name}.{ending}" for name in ("figure2", "figure2_maps") for ending in ("png", "svg")),
    *(f"{name}.csv" for name in ("figure2a", "figure2b", "figure2_maps")),
)


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    if argv and argv[0] == "estimate":
        from rubric_rl.commands.theory_estimate import main as estimate

        return estimate(argv[1:])
    if argv and argv[0] == "figure2":
        return _figure2(argv[1:])
    return _golden(argv)


# ----------------------------------------------------------------------------
# Reference values


def _golden(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="rubric-rl theory",
        description="Values of Theorem 1, ours beside the reference. Also:",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--csv", type=Path, help="write every value, a line each")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")
    args = parser.parse_args(argv)
    if args.dry_run:
        tell("reference values would be worked out and shown; no model is asked")
        tell_outputs(args.csv)
        return 0
    tables = golden_tables()
    if args.csv is not None:
        OutputFolder(args.csv.parent).write(args.csv.name, _as_csv(tables))
    console = Console(file=sys.stdout, highlight=False)
    for table in tables:
        console.print(f"\n{table.title}", markup=False)
        console.print(_drawn(table))
    console.print("\nWin rate lost at most with the best share ranked right (and its bound)")
    console.print(_bounds())
    console.print()
    check = cross_check(_CHECKED_NATS, num_samples=_NUM_SAMPLES, seed=0)
    values = [value for table in tables for value in table.comparisons]
    console.print(_in_words(values, check), soft_wrap=True)
    return 0 if all(value.is_reproduced for value in values) else _EXIT_WRONG_VALUES


def _drawn(golden: GoldenTable) -> Table:
    """Three lines for each row: ours, the reference, and how far apart they are."""
    rows: dict[str, list[Comparison]] = {}
    for value in golden.comparisons:
        rows.setdefault(value.row, []).append(value)
    # Narrow enough for 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(golden.rows)
    table.add_column("")
    for value in next(iter(rows.values())):
        table.add_column(value.column, justify="right", min_width=6)
    for name, values in rows.items():
        table.add_row(name, "ours", *(_number(value.ours) for value in values))
        table.add_row("", "ref.", *(_number(value.reference) for value in values))
        table.add_row("", "diff", *(f"{v.difference:+.0e}" for v in values))
    return table


def _bounds() -> Table:
    """Regret of the worst ranking that has its best share right, and the bound of it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("share")
    for nats in _BOUND_NATS:
        table.add_column(f"KL {nats:g}", justify="right")
    inverse_beta = inverse_beta_at(_BOUND_NATS)
    best = theorem.win_rate(rerankings.correct(), inverse_beta)
    for share in _BOUND_SHARES:
        regrets = best - theorem.win_rate(rerankings.top_correct(share), inverse_beta)
        bounds = theorem.top_correct_regret_bound(share, inverse_beta)
        cells = zip(regrets, bounds, strict=True)
        table.add_row(f"{share:.0%}", *(f"{lost:.4f} ({bound:.4f})" for lost, bound in cells))
    return table


def _number(value: float) -> str:
    return f"{value:.4f}" if value < 10 else f"{value:.6g}"


def _in_words(values: Sequence[Comparison], check: CrossCheck) -> str:
    rates = [abs(v.difference) for v in values if v.column not in ("1/beta", "KL")]
    wrong = [f"{v.row} {v.column}" for v in values if not v.is_reproduced]
    return (
        f"{len(values) - len(wrong)} of {len(values)} values reproduced"
        f"{'; not: ' + '; '.join(wrong) if wrong else ''}. Win rates differ by at most "
        f"{max(rates):.1e} (allowed: {TOLERANCE:.0e}; the references have four digits).\n"
        f"Closed forms of {check.num_values} win rates and KLs: quadrature differs by at most "
        f"{check.quadrature_gap:.0e}, Monte Carlo with {check.num_samples} samples by at most "
        f"{check.sampling_gap:.1f} standard errors."
    )


def _as_csv(tables: Sequence[GoldenTable]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", "ours", "reference", "difference", "tolerance"])
    for table in tables:
        for v in table.comparisons:
            values = (v.ours, v.reference, v.difference, v.tolerance)
            writer.writerow([table.title, v.row, v.column, *(f"{x:.10g}" for x in values)])
    return text.getvalue()


# ----------------------------------------------------------------------------
# Figure 2


def _figure2(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="rubric-rl theory figure2", description="Both panels of Figure 2, and its maps."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")
    args = parser.parse_args(argv)
    if args.dry_run:
        tell_outputs(*(args.out / name for name in _FIGURE2_FILES))
        return 0
    folder = OutputFolder(args.out)
    # Here because it takes long to import.
    from rubric_rl.plots.figure2 import draw_maps, draw_panels
    from rubric_rl.plots.style import as_png, as_svg

    numbers = figure2()
    for name, drawing in (("figure2", draw_panels(numbers)), ("figure2_maps", draw_maps(numbers))):
        folder.write(f"{name}.png", as_png(drawing))
        folder.write(f"{name}.svg", as_svg(drawing))
    for name, curves in (
        ("figure2a", numbers.by_case),
        ("figure2b", numbers.by_top_share),
        ("figure2_maps", numbers.maps),
    ):
        folder.write(f"{name}.csv", curves.as_csv())
    sys.stdout.write(folder.account())
    return 0
