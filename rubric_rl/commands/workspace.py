"""`rubric-rl workspace`: a W&B workspace with panels for every metric.

rubric-rl workspace --dry-run               the panels, without network
rubric-rl workspace --project rubric-rl     save it; prints its address
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rubric_rl.config.schema import WandbConfig
from rubric_rl.observability.printable import printable
from rubric_rl.observability.workspace import plan_text, plan_workspace


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises ConfigError."""
    args = _parser().parse_args(argv)
    plan = plan_workspace()
    if args.dry_run:
        sys.stdout.write(plan_text(plan))
        return 0
    from rubric_rl.observability.wandb_workspace import WorkspaceTarget, save_workspace

    target = WorkspaceTarget(entity=args.entity, project=args.project, name=args.name)
    url = save_workspace(plan, target)
    sys.stdout.write(printable(f"{url}: {plan.num_panels} panels\n"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl workspace",
        description="Save a W&B workspace with a panel for every metric of a run, in sections. "
        "Each call saves a new one.",
    )
    parser.add_argument(
        "--entity", metavar="NAME", help="user or team (default: that of the account)"
    )
    parser.add_argument(
        "--project",
        metavar="NAME",
        default=WandbConfig().project,
        help="as in logging.wandb.project (default: %(default)s)",
    )
    parser.add_argument(
        "--name", metavar="TEXT", default="rubric_rl", help="its title (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the panels, save nothing")
    return parser
