"""`rubric-rl train`: compose the configuration, then run it, print it or plan it.

    rubric-rl train experiment=quickstart_cpu run.seed=3
    python -m rubric_rl.train experiment=quickstart_cpu --cfg job

Ray and the engines are imported when a run starts, so that printing a
configuration or finding an error in it takes about a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rubric_rl.config.compose import compose, to_yaml
from rubric_rl.errors import ConfigError

_EPILOG = """\
Overrides are Hydra's: GROUP=OPTION chooses a file of configs/GROUP, and
SECTION.KEY=VALUE sets any value of the configuration, e.g.

  rubric-rl train experiment=quickstart_cpu run.seed=3
  rubric-rl train model.name_or_path=DIRECTORY learner=zero3 learner.num_workers=2
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    _refuse_other_commands(args.overrides)
    config = compose(args.overrides)
    if args.cfg:
        sys.stdout.write(to_yaml(config))
        return 0
    if args.dry_run:
        from rubric_rl.runtime.launch import dry_run

        return dry_run(config)
    from rubric_rl.runtime.launch import run_training

    return run_training(config)


def _refuse_other_commands(overrides: Sequence[str]) -> None:
    others = {"sft": "rubric-rl sft", "bradley_terry": "rubric-rl reward-model"}
    for override in overrides:
        section = override.lstrip("+~").split("=")[0].split(".")[0]
        if section in others:
            raise ConfigError(
                f"override {override!r} has no effect on `rubric-rl train`: it is for "
                f"`{others[section]}`"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl train",
        description="Train a policy on rubric rewards.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="GROUP=OPTION or SECTION.KEY=VALUE"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--cfg", choices=["job"], help="print the resolved configuration and do nothing else"
    )
    action.add_argument(
        "--dry-run",
        action="store_true",
        help="show the placement, check the inputs; start nothing",
    )
    return parser


if __name__ == "__main__":
    # Through the command line's own entry, so that errors look the same.
    from rubric_rl.cli import main as command_line

    sys.exit(command_line(["train", *sys.argv[1:]]))
