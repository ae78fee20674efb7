"""environment.json: what is recorded, and what is said when it changes."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path

import rubric_rl
from rubric_rl.observability.environment import git_commit, write_environment


def test_versions_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    write_environment(path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["rubric_rl"] == rubric_rl.__version__
    assert found["python"].startswith("3.")
    expected = {"git_commit", "ray", "vllm", "torch", "deepspeed", "transformers", "openrlhf"}
    assert expected <= found.keys()


def test_a_changed_version_is_warned_of_once_and_equal_ones_are_not(tmp_path: Path, caplog) -> None:
    path = tmp_path / "environment.json"
    write_environment(path)
    older = json.loads(path.read_text(encoding="utf-8")) | {"python": "3.0.0"}
    path.write_text(json.dumps(older), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        write_environment(path)
        write_environment(path)
    assert [record.getMessage()[:17] for record in caplog.records] == ["python was 3.0.0 "]


def _git(directory: Path, *args: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *args], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_commit_is_that_of_the_tracked_package_and_says_when_it_was_changed(
    tmp_path: Path,
) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    source = package / "__init__.py"
    source.write_text("", encoding="utf-8")
    _git(tmp_path, "init", "-q")
    assert git_commit(package) is None  # there, but not tracked
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "first")
    head = _git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(package) == head
    source.write_text("x = 1\n", encoding="utf-8")
    assert git_commit(package) == f"{head}-dirty"


def test_no_repository_gives_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path / "nowhere") is None
