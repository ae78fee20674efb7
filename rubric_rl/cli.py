"""The `rubric-rl` command.

Each command parses its own arguments in its own module; here they are found,
and here errors that a person can act on become one line and an exit code:

    0 done    2 usage, configuration, data, cluster or run failed, in words
    1 a bug, with its traceback    130 interrupted
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rubric_rl import __version__
from rubric_rl.errors import RubricRLError
from rubric_rl.observability.printable import printable

# Imported when called for, so that each command starts as fast as it can.


def _train(argv: Sequence[str]) -> int:
    from rubric_rl.train import main as command

    return command(argv)


def _judge(argv: Sequence[str]) -> int:
    from rubric_rl.commands.judge import main as command

    return command(argv)


def _rubrics(argv: Sequence[str]) -> int:
    if argv and argv[0] == "build":
        from rubric_rl.commands.rubrics_build import main as build

        return build(argv[1:])
    if argv and argv[0] == "analyze":
        from rubric_rl.commands.rubrics_analyze import main as analyze

        return analyze(argv[1:])
    is_store = argv[:1] == ["show"] and len(argv) > 1 and Path(argv[1]).is_dir()
    if is_store or (argv and argv[0] in ("log", "diff")):
        from rubric_rl.commands.rubrics_history import main as history

        return history(argv)
    from rubric_rl.commands.rubrics import main as command

    return command(argv)


def _rollouts(argv: Sequence[str]) -> int:
    from rubric_rl.commands.rollouts import main as command

    return command(argv)


def _theory(argv: Sequence[str]) -> int:
    from rubric_rl.commands.theory import main as command

    return command(argv)


def _tables(argv: Sequence[str]) -> int:
    from rubric_rl.commands.tables import main as command

    return command(argv)


def _eval(argv: Sequence[str]) -> int:
    from rubric_rl.commands.evaluate import main as command

    return command(argv)


def _lab(argv: Sequence[str]) -> int:
    from rubric_rl.commands.lab import main as command

    return command(argv)


def _plan(argv: Sequence[str]) -> int:
    from rubric_rl.commands.plan import main as command

    return command(argv)


def _sft(argv: Sequence[str]) -> int:
    from rubric_rl.commands.sft import main as command

    return command(argv)


def _reward_model(argv: Sequence[str]) -> int:
    from rubric_rl.commands.reward_model import main as command

    return command(argv)


def _doctor(argv: Sequence[str]) -> int:
    from rubric_rl.commands.doctor import main as command

    return command(argv)


def _checkpoints(argv: Sequence[str]) -> int:
    from rubric_rl.commands.checkpoints import main as command

    return command(argv)


def _report(argv: Sequence[str]) -> int:
    from rubric_rl.commands.report import main as command

    return command(argv)


def _workspace(argv: Sequence[str]) -> int:
    from rubric_rl.commands.workspace import main as command

    return command(argv)


def _serve(argv: Sequence[str]) -> int:
    from rubric_rl.integrations.serve import main as command

    return command(argv)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "plan": _plan,
    "doctor": _doctor,
    "eval": _eval,
    "rollouts": _rollouts,
    "judge": _judge,
    "rubrics": _rubrics,
    "theory": _theory,
    "tables": _tables,
    "lab": _lab,
    "checkpoints": _checkpoints,
    "report": _report,
    "workspace": _workspace,
    "sft": _sft,
    "reward-model": _reward_model,
    "serve": _serve,
}
_HELP = (
    "train: run a training; plan: what a run will take; doctor: whether it would start; "
    "judge: grade answers, compare judges; "
    "rollouts: collect answers; eval: win rate, tail accuracy, benchmarks, over-optimisation; "
    "rubrics: import, export, lint, show, build, log, diff, analyze; "
    "theory: Theorem 1, Figure 2, what a rubric will do; "
    "tables: the paper's tables and figures from records; "
    "checkpoints: list, verify, export; "
    "report: one HTML file on a run, or on several compared; "
    "workspace: a W&B workspace with panels for every metric; "
    "lab: do refined rubrics delay over-optimisation; "
    "sft, reward-model: train the baselines; "
    "serve: rewards over HTTP for other trainers"
)

_EXIT_USER_ERROR = 2
# As a shell reports a command that SIGINT ended.
_EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is `sys.argv[1:]` by default."""
    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args.arguments)
    except RubricRLError as err:
        # An endpoint's words can be part of it.
        sys.stderr.write(printable(f"error: {err}\n"))
        return _EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl",
        description="Reinforcement fine-tuning of language models on rubric rewards.",
        epilog="`rubric-rl COMMAND --help` shows the arguments of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", choices=sorted(_COMMANDS), help=_HELP)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
