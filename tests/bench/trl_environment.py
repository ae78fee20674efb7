"""A virtual environment with TRL in it, apart from the project's own.

What both have in common is pinned to the project's versions (launch/requirements/cpu.txt), torch
and transformers first of all, so that a comparison is one of the trainers.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from rubric_rl.data.small_model import default_cache_dir

TRL_VERSION = "1.16.0"
ROOT = Path(__file__).resolve().parents[2]
_PINS = ROOT / "launch/requirements/cpu.txt"
# The last four are for our rules and judge, which reward functions run there.
_OURS = ("pydantic", "regex", "hydra-core", "openai")
_PACKAGES = (f"trl=={TRL_VERSION}", "torch", "transformers", *_OURS)
_INSTALL_TIMEOUT_S = 900


def default_directory() -> Path:
    return default_cache_dir() / f"bench-trl-{TRL_VERSION}"


def prepare(directory: Path) -> Path:
    """The Python of the environment in `directory`, which is made if it isn't there."""
    python, stamp = directory / "bin/python", directory / ".installed"
    wanted = hashlib.sha256(_PINS.read_bytes() + repr(_PACKAGES).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    uv = Path(sys.executable).parent / "uv"
    print(f"installing TRL {TRL_VERSION} into {directory}", file=sys.stderr)
    _run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(directory)])
    install = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
    _run([*install, *_torch_backend(), "--constraint", str(_PINS), *_PACKAGES])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _torch_backend() -> list[str]:
    """As in launch/setup.sh: uv's own switch finds CPU torch where pip is given no links."""
    return [] if os.environ.get("PIP_FIND_LINKS") else ["--torch-backend", "cpu"]


def _run(command: list[str]) -> None:
    environment = dict(os.environ)
    if links := environment.get("PIP_FIND_LINKS"):
        environment.setdefault("UV_FIND_LINKS", links.replace(" ", ","))
    subprocess.run(command, check=True, env=environment, timeout=_INSTALL_TIMEOUT_S)
