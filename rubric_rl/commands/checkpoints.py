"""`rubric-rl checkpoints list|verify|export`: the checkpoints of a run.

rubric-rl checkpoints list RUN              step, evaluation, size, age, complete or why not
rubric-rl checkpoints verify RUN [STEP ...] read every byte and compare it with the checksums
rubric-rl checkpoints export RUN DIR        the policy as a Hugging Face model directory
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from pydantic import ValidationError

from rubric_rl.commands.dry_run import tell
from rubric_rl.config.schema import Config
from rubric_rl.controller.best_checkpoints import best, read_score
from rubric_rl.controller.checkpoint_files import (
    Checkpoint,
    alteration,
    damage,
    has_checksums,
    num_bytes,
)
from rubric_rl.controller.checkpoints import LEARNER_DIR
from rubric_rl.controller.run_folder import RunFolder
from rubric_rl.errors import DataError
from rubric_rl.observability.printable import printable

_MIB = 2**20
_EXIT_DAMAGED = 2


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_args(argv)
    folder = RunFolder(root=args.run)
    found = folder.all_checkpoints()
    if not found:
        raise DataError(f"{str(args.run)!r} holds no checkpoints/step_*: give the folder of a run")
    if args.command == "list":
        return _list(folder, found)
    if args.command == "verify":
        return _verify([_of_step(found, step) for step in args.steps] or found)
    chosen = _chosen(folder, found, args.checkpoint)
    return _export(folder, chosen, args.directory, dry_run=args.dry_run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl checkpoints", description="List, verify and export a run's checkpoints."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="what there is, and whether it is complete")
    verify = commands.add_parser("verify", help="read everything and compare checksums")
    export = commands.add_parser("export", help="write a Hugging Face model directory")
    for command in (listing, verify, export):
        command.add_argument("run", metavar="RUN", type=Path, help="run folder (run.dir)")
    verify.add_argument("steps", metavar="STEP", type=int, nargs="*", help="default: all")
    export.add_argument("directory", metavar="DIR", type=Path, help="must not exist")
    export.add_argument(
        "--checkpoint",
        default="newest",
        metavar="STEP",
        help="a step, `newest` (default) or `best`",
    )
    export.add_argument(
        "--dry-run", action="store_true", help="check the checkpoint; write nothing"
    )
    return parser


# ----------------------------------------------------------------------------
# list, verify


def _list(folder: RunFolder, found: Sequence[Checkpoint]) -> int:
    first = _best_of(folder, found)
    for checkpoint in found:
        score, problem = read_score(checkpoint.path), damage(checkpoint.path)
        words = [
            checkpoint.path.name,
            f"{num_bytes(checkpoint.path) / _MIB:,.0f} MiB",
            f"{_age(checkpoint.path)} old",
            f"{score.metric} {score.value:.4f}" if score else "not evaluated",
            "complete" if problem is None else f"not complete: {problem}",
        ]
        if checkpoint == first:
            words.append("best")
        _say("  ".join(words))
    return 0


def _verify(checkpoints: Sequence[Checkpoint]) -> int:
    num_damaged = 0
    for checkpoint in checkpoints:
        problem = damage(checkpoint.path) or alteration(checkpoint.path)
        num_damaged += problem is not None
        if problem is not None:
            result = problem
        elif has_checksums(checkpoint.path):
            result = "every file is as it was written"
        else:
            result = "every file has its size; an older version wrote it, without checksums"
        _say(f"{checkpoint.path.name}: {result}")
    return _EXIT_DAMAGED if num_damaged else 0


def _age(path: Path) -> str:
    manifest = path / "manifest.json"  # the last file that is written
    seconds = time.time() - (manifest if manifest.exists() else path).stat().st_mtime
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


# ----------------------------------------------------------------------------
# export


def _export(folder: RunFolder, checkpoint: Checkpoint, target: Path, *, dry_run: bool) -> int:
    if target.exists():
        raise DataError(f"{str(target)!r} exists: give a directory that doesn't")
    problem = damage(checkpoint.path) or alteration(checkpoint.path)
    if problem is not None:
        raise DataError(f"{checkpoint.path.name} can't be exported: {problem}. Choose another step")
    config = _config(folder)
    if config.bradley_terry.path is not None:
        raise DataError(
            f"{str(folder.root)!r} trains a reward model, of which only the end is exported, to "
            "its folder model: let the run go on to its end (run.max_steps), with run.resume=auto"
        )
    if dry_run:
        tell(f"{target} would get the policy of step {checkpoint.step}, which is whole")
        return 0
    from rubric_rl.data.tokenizing import resolve_model_path
    from rubric_rl.learner.exporting import export_checkpoint

    export_checkpoint(
        checkpoint.path / LEARNER_DIR,
        target,
        model_path=resolve_model_path(config.model),
        model=config.model,
        learner=config.learner,
    )
    _say(f"{target}: the policy of step {checkpoint.step}; serve it with `vllm serve {target}`")
    return 0


def _config(folder: RunFolder) -> Config:
    """Of the run's latest start."""
    if not folder.config_yaml.is_file():
        raise DataError(f"{str(folder.root)!r} holds no config.yaml: give the folder of a run")
    try:
        return Config.model_validate(OmegaConf.to_container(OmegaConf.load(folder.config_yaml)))
    except ValidationError as err:
        first = err.errors()[0]
        raise DataError(
            f"{str(folder.config_yaml)!r} is of another version of rubric_rl "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}): use the version that wrote it"
        ) from err


def _chosen(folder: RunFolder, found: Sequence[Checkpoint], which: str) -> Checkpoint:
    if which.isdigit():
        return _of_step(found, int(which))
    complete = [checkpoint for checkpoint in found if damage(checkpoint.path) is None]
    chosen = _best_of(folder, found) if which == "best" else (complete or [None])[-1]
    if which not in ("best", "newest") or chosen is None:
        raise DataError(
            f"--checkpoint {which}: want a step, `newest`, or `best` if one was evaluated; there "
            f"are {_steps(found)}, {len(complete)} of them complete"
        )
    return chosen


def _best_of(folder: RunFolder, found: Sequence[Checkpoint]) -> Checkpoint | None:
    complete = [checkpoint for checkpoint in found if damage(checkpoint.path) is None]
    ranking = best(complete, _config(folder).best_metric, 1)
    return ranking[0] if ranking else None


def _of_step(found: Sequence[Checkpoint], step: int) -> Checkpoint:
    for checkpoint in found:
        if checkpoint.step == step:
            return checkpoint
    raise DataError(f"there is no checkpoint of step {step}: there are {_steps(found)}")


def _steps(found: Sequence[Checkpoint]) -> str:
    return "steps " + ", ".join(str(checkpoint.step) for checkpoint in found)


def _say(line: str) -> None:
    sys.stdout.write(printable(f"{line}\n"))
