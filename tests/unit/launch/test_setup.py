"""`launch/setup.sh` refuses what it can't do before it touches .venv."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Without packages: whoever gets as far as to install fails."""
    (tmp_path / "launch" / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "setup.sh", tmp_path / "launch" / "setup.sh")
    for name in ("cpu", "gpu"):
        (tmp_path / "launch" / "requirements" / f"{name}.txt").write_text("a==1\n")
    (tmp_path / "pyproject.toml").write_text("")
    # Of all commands those that the checks need, a compiler, and no nvcc.
    (tmp_path / "bin").mkdir()
    for name in ("bash", "cat", "cut", "dirname", "sha256sum"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    (tmp_path / "bin" / "g++").symlink_to(tmp_path / "bin" / "cat")
    return tmp_path


def setup(checkout: Path, *arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        ["bash", "launch/setup.sh", *arguments],
        cwd=checkout,
        env={"PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return result.returncode, result.stderr


def holds(checkout: Path, kind: str | None) -> None:
    """A .venv with other pins than the present ones; None: of a time when there was one kind."""
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".installed").write_text("old")
    if kind is not None:
        (checkout / ".venv" / ".kind").write_text(kind)


def test_an_unknown_stack_is_refused(checkout: Path) -> None:
    code, told = setup(checkout, "tpu")
    assert code == 2 and "'tpu' is not a stack: want cpu or gpu" in told


def test_the_gpu_stack_wants_nvcc(checkout: Path) -> None:
    code, told = setup(checkout, "gpu")
    assert code == 1 and "nvcc was not found" in told
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(("held", "asked"), [("gpu", "cpu"), ("cpu", "gpu"), (None, "gpu")])
def test_another_stack_is_not_installed_over_the_one_that_is_there(
    checkout: Path, held: str | None, asked: str
) -> None:
    holds(checkout, held)
    (checkout / "bin" / "nvcc").symlink_to(checkout / "bin" / "cat")
    code, told = setup(checkout, asked)
    assert code == 2 and f".venv holds the {held or 'cpu'} stack" in told
    assert (checkout / ".venv" / ".installed").read_text() == "old"


def test_without_a_word_it_is_the_stack_that_is_there(checkout: Path) -> None:
    holds(checkout, "gpu")
    code, told = setup(checkout)
    # It goes for the gpu stack, and stops at what that wants.
    assert code == 1 and "nvcc was not found" in told
