"""`rubric-rl eval`: each kind of evaluation in its module."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


def _winrate(argv: Sequence[str]) -> int:
    from rubric_rl.commands.eval_winrate import main as command

    return command(argv)


def _tail(argv: Sequence[str]) -> int:
    from rubric_rl.commands.eval_tail import main as command

    return command(argv)


def _healthbench(argv: Sequence[str]) -> int:
    from rubric_rl.commands.eval_benchmark import main as command

    return command("healthbench", argv)


def _prbench(argv: Sequence[str]) -> int:
    from rubric_rl.commands.eval_benchmark import main as command

    return command("prbench", argv)


def _overopt(argv: Sequence[str]) -> int:
    from rubric_rl.commands.eval_overopt import main as command

    return command(argv)


def _best_of_n(argv: Sequence[str]) -> int:
    from rubric_rl.commands.eval_best_of_n import main as command

    return command(argv)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "winrate": _winrate,
    "tail": _tail,
    "healthbench": _healthbench,
    "prbench": _prbench,
    "overopt": _overopt,
    "best-of-n": _best_of_n,
}


def main(argv: Sequence[str]) -> int:
    """Run one evaluation and return its exit code. Raises RubricRLError."""
    parser = argparse.ArgumentParser(
        prog="rubric-rl eval",
        description="Measure answers, rubrics and models.",
        epilog="`rubric-rl eval WHAT --help` shows the arguments of an evaluation.",
    )
    parser.add_argument(
        "what",
        choices=sorted(_COMMANDS),
        help="winrate: a policy against an opponent; tail: does a rubric order the best answers; "
        "healthbench, prbench: the benchmarks' own scores; overopt: when runs over-optimise; "
        "best-of-n: the best answers by a reward",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    return _COMMANDS[args.what](args.arguments)
