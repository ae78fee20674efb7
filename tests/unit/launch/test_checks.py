"""What is checked before a commit and before the tests: the same, by the tools of .venv."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
HOOKS = [
    hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    for hook in repo["hooks"]
]


def _stand_in(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def _calls_of_test_sh(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """What launch/test.sh runs, in order, in a checkout of stand-ins."""
    _stand_in(folder / "launch" / "setup.sh", "")
    shutil.copy(ROOT / "launch" / "test.sh", folder / "launch" / "test.sh")
    for name in ("ruff", "basedpyright", "python"):
        _stand_in(folder / ".venv" / "bin" / name, f'echo ".venv/bin/{name} $*" >>calls.log')
    subprocess.run(
        ["bash", str(folder / "launch" / "test.sh"), *arguments],
        env={"PATH": os.environ["PATH"], **variables},
        check=True,
    )
    lines = (folder / "calls.log").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_is_a_check_of_the_tests_too(hook: dict, tmp_path: Path):
    checks = [call.removesuffix(" .") for call in _calls_of_test_sh(tmp_path)]
    assert hook["entry"] in checks
    assert hook["language"] == "system"


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_names_a_tool_that_is_there(hook: dict):
    tool = hook["entry"].split()[0]
    subprocess.run([str(ROOT / tool), "--version"], check=True, capture_output=True)


def test_the_checks_come_before_the_tests(tmp_path: Path):
    assert _calls_of_test_sh(tmp_path, "tests/unit") == [
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/basedpyright",
        ".venv/bin/python -m pytest -m not gpu and not cluster and not trl tests/unit",
    ]


def test_coverage_is_printed_when_asked_for(tmp_path: Path):
    last = _calls_of_test_sh(tmp_path, "tests/unit", COVERAGE="1")[-1]
    assert "--cov=rubric_rl --cov-report=term:skip-covered tests/unit" in last


def test_whoever_imports_a_package_asks_for_it():
    """`packaging` compares the versions of `rubric-rl doctor`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert any(line.startswith("packaging") for line in project["dependencies"])


def test_what_is_checked_strictly_exists():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["basedpyright"]
    missing = [path for path in settings["strict"] if not (ROOT / path).exists()]
    assert settings["strict"] and missing == []
