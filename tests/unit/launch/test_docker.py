"""The Dockerfiles: pinned, not root, built of files that are there, and linted by hadolint."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = {"gpu": ROOT / "docker" / "Dockerfile", "cpu": ROOT / "docker" / "Dockerfile.cpu"}
# What both images take from pyproject.toml.
SHARED = ("ray", "torch", "deepspeed", "transformers", "openrlhf")


def _instructions(kind: str) -> list[tuple[str, str]]:
    """Of a Dockerfile, lines that go on joined and comments left out."""
    lines = [line for line in FILES[kind].read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    split = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(words[0], " ".join(words[1].split())) for words in split]


def _of(kind: str, name: str) -> list[str]:
    return [rest for instruction, rest in _instructions(kind) if instruction == name]


@pytest.mark.parametrize("kind", FILES)
def test_base_images_are_pinned(kind: str):
    images = [rest.split()[0] for rest in _of(kind, "FROM")]
    assert len(images) == 2
    for image in images:
        assert re.search(r":\d+\.\d+\.\d+", image), image
    # uv is in neither, so it comes by its version too.
    assert re.search(r"pip install --no-cache-dir uv==\d+\.\d+\.\d+", " ".join(_of(kind, "RUN")))


@pytest.mark.parametrize("kind", FILES)
def test_the_last_stage_is_a_user_with_a_health_check(kind: str):
    names = [instruction for instruction, _ in _instructions(kind)]
    last = len(names) - 1 - names[::-1].index("FROM")
    assert _of(kind, "USER") == ["1000:1000"]
    assert names.index("USER") > last and names.index("HEALTHCHECK") > last
    assert not [rest for rest in _of(kind, "ENV") + _of(kind, "ARG") if "KEY" in rest]


@pytest.mark.parametrize("kind", FILES)
def test_lists_of_packages_do_not_stay_in_a_layer(kind: str):
    installs = [rest for rest in _of(kind, "RUN") if "apt-get install" in rest]
    assert installs
    for rest in installs:
        assert "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists/*" in rest


def _sent() -> set[str]:
    """Files that .dockerignore lets into a build: the last pattern that matches decides."""
    patterns = [
        line.rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    secrets = (".git/HEAD", ".venv/bin/python", "runs/x", "keys.env")
    names = [*listed.stdout.splitlines(), *secrets]
    sent: set[str] = set()
    for name in names:
        path, is_sent = Path(name), True
        for pattern in patterns:
            plain = pattern.lstrip("!").removeprefix("**/")
            prefixes = [name, *map(str, path.parents)]
            if any(fnmatch.fnmatch(prefix, plain) for prefix in prefixes if prefix != "."):
                is_sent = pattern.startswith("!")
        if is_sent:
            sent.add(name)
    return sent


@pytest.mark.parametrize("kind", FILES)
def test_what_is_copied_is_sent_and_nothing_else(kind: str):
    sent = _sent()
    copied = [
        source.rstrip("/")
        for rest in _of(kind, "COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    for source in copied:
        assert any(name == source or name.startswith(f"{source}/") for name in sent), source
    tops = {name.split("/")[0] for name in sent}
    assert tops == {*(source.split("/")[0] for source in copied)}
    assert {name for name in sent if name.startswith("launch/")} == {
        name for name in sent if name.startswith("launch/requirements/")
    }


@pytest.mark.parametrize("kind", FILES)
def test_the_requirements_are_pinned_as_the_project_declares(kind: str):
    lines = (ROOT / "launch" / "requirements" / f"{kind}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    pins = dict(line.split("==") for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"][kind]]
    wanted = dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==(\S+)$", "\n".join(declared), re.M))
    assert {name: pins[name].split("+")[0] for name in SHARED} == {n: wanted[n] for n in SHARED}
    assert kind == "cpu" or {"vllm", "flash-attn", "nvidia-nccl-cu13"} <= pins.keys()


@pytest.mark.parametrize("kind", FILES)
def test_a_linter_finds_nothing(kind: str):
    hadolint = Path(sys.executable).with_name("hadolint")
    subprocess.run([str(hadolint), str(FILES[kind])], check=True)
