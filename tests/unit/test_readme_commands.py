"""Every command of the READMEs is run, or checked as far as this machine allows.

A command runs in a folder with the files that the READMEs name, most with `--dry-run`. What
needs GPUs, a cluster or a service is composed or parsed. A command that no rule
matches, or more than one, fails.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from rubric_rl.cli import main
from rubric_rl.config.compose import compose
from rubric_rl.integrations.wire import ScoreIn

from ..readme_workspace import PROMPT, fill
from ..readmes import ROOT, Command, commands

COMMANDS = commands()


class Ran(NamedTuple):
    """A command in a folder that has its files."""

    words: list[str]
    folder: Path
    stderr: Callable[[], str]


Check = Callable[[Ran], None]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    fill(folder)
    return folder


# ----------------------------------------------------------------------------
# Checks


def _runs(*more: str, prompt: str = PROMPT) -> Check:
    """It ends with 0, with these arguments added and its placeholders filled."""

    def check(ran: Ran) -> None:
        words = [prompt if word == "PROMPT_ID" else word for word in ran.words[1:]]
        assert main([*words, *more]) == 0, ran.stderr()

    return check


def _stops_at(message: str) -> Check:
    """All it is told is right: the first fault is a file that isn't there, or holds too little."""

    def check(ran: Ran) -> None:
        assert main(ran.words[1:]) == 2
        assert re.search(message, ran.stderr())

    return check


def _composes(ran: Ran) -> None:
    first = 2 if ran.words[0] != "rubric-rl" or ran.words[1] == "train" else 3
    words = [word for word in ran.words[first:] if not word.startswith("--")]
    compose([*words, "run.resume=auto"] if "run.dir=" in " ".join(words) else words)


def _names_files(ran: Ran) -> None:
    """Scripts parse, and all paths of this checkout exist."""
    paths = [ROOT / word for word in ran.words if (ROOT / word.split("/")[0]).is_dir()]
    assert paths and all(path.exists() for path in paths)
    for path in paths:
        if path.suffix == ".sh":
            subprocess.run(["bash", "-n", str(path)], check=True)
        if path.suffix == ".yaml":
            assert list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def _is_launched(ran: Ran) -> None:
    assert (ROOT / ran.words[1]).is_file()
    _composes(ran)


def _is_shell(ran: Ran) -> None:
    subprocess.run(["bash", "-n", "-c", " ".join(ran.words)], check=True)


def _tells_the_version(ran: Ran) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(ran.words[1:])


def _starts(ran: Ran) -> None:
    """A command of .venv, or a module of ours, that ends with 0 and changes nothing here."""
    module = ran.words[ran.words.index("-m") + 1]
    copies = []
    for word in ran.words[3:]:
        copies.append(str(ran.folder / Path(word).name))
        Path(copies[-1]).write_text((ROOT / word).read_text("utf-8"), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", module, *copies], check=True, env=environment)
    for word, copy in zip(ran.words[3:], copies, strict=True):
        assert Path(copy).read_text("utf-8") == (ROOT / word).read_text("utf-8")


def _is_pinned(ran: Ran) -> None:
    package = Path(ran.words[0]).name
    assert f"\n{package}==" in (ROOT / "launch/requirements/cpu.txt").read_text("utf-8")


def _posts_answers(ran: Ran) -> None:
    body = json.loads(ran.words[ran.words.index("-d") + 1])
    assert ScoreIn.model_validate(body).answers[0].prompt_id == PROMPT


def _openrlhf_knows_its_options(ran: Ran) -> None:
    """Options of OpenRLHF's own parser, read from its source."""
    spec = importlib.util.find_spec("openrlhf")
    assert spec is not None and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / "cli" / "train_ppo_ray.py"
    known = set(re.findall(r'"(--[\w.]+)"', source.read_text(encoding="utf-8")))
    options = {word for word in ran.words if word.startswith("--")}
    assert options and options <= known
    for word in ran.words:
        if word.endswith(".py"):
            assert "def reward_func" in (ROOT / word).read_text(encoding="utf-8")


def _verl_finds_ours(ran: Ran) -> None:
    """verl isn't installed: the module that it is told to load has the function."""
    settings = dict(word.lstrip("+").split("=", 1) for word in ran.words if "=" in word)
    prefix = "reward.custom_reward_function"
    module = settings[f"{prefix}.path"].removeprefix("pkg://")
    source = ROOT / f"{module.replace('.', '/')}.py"
    functions = [
        node.name
        for node in ast.parse(source.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert settings[f"{prefix}.name"] in functions


# ----------------------------------------------------------------------------
# Rules

MISSING = r"no such file|does not exist|No such file|is not a directory"
RULES: tuple[tuple[str, Check], ...] = (
    # The checkout and its tools.
    (r"(COVERAGE=1 )?bash launch/(quickstart|test|setup)\.sh", _names_files),
    (r"(bash launch/ray_job|sbatch launch/slurm)\.sh ", _is_launched),
    (r"kubectl apply |docker build ", _names_files),
    (r"export |source ", _is_shell),
    (r"\.venv/bin/pre-commit install$", _is_pinned),
    (r"python -m rubric_rl\.", _starts),
    # Before a run, and runs.
    (r"rubric-rl --version$", _tells_the_version),
    (r"rubric-rl plan ", _runs()),
    (r"rubric-rl doctor ", _runs("--dry-run")),
    (r"rubric-rl train (?=.*(--dry-run|--cfg job))(?!.*=paper_)", _runs()),
    (r"rubric-rl train (?!.*(--dry-run|--cfg job|=paper_|healthbench))", _runs("--dry-run")),
    (r"rubric-rl train .*(=paper_|healthbench)", _composes),
    (r"rubric-rl (sft|reward-model) ", _runs("--dry-run")),
    (r"rubric-rl lab (?!.*--dry-run)", _runs("--dry-run")),
    (r"rubric-rl lab .*--dry-run", _runs()),
    # After a run.
    (r"rubric-rl workspace (?!.*--dry-run)", _runs("--dry-run")),
    (r"rubric-rl workspace .*--dry-run", _runs()),
    (r"rubric-rl report ", _runs()),
    (r"rubric-rl checkpoints (list|verify) ", _runs()),
    (r"rubric-rl checkpoints export ", _stops_at("--checkpoint best")),
    # Data and rubrics.
    (r"rubric-rl rubrics import ", _runs("--force", "--dry-run")),
    (r"rubric-rl rubrics (lint|show) prompts\.jsonl", _runs()),
    (r"rubric-rl rubrics (log|diff|show) rubrics ", _runs(prompt="h1")),
    (r"rubric-rl rubrics (export|build|analyze) ", _runs("--dry-run")),
    (r"rubric-rl rollouts (?!.*--local)", _runs("--dry-run")),
    (r"rubric-rl rollouts .*--local", _stops_at(MISSING)),
    # Judging and evaluating.
    (r"rubric-rl judge (?!card)", _runs("--dry-run")),
    (r"rubric-rl judge card ", _stops_at("a card is on one")),
    (r"rubric-rl eval (winrate policy|tail|best-of-n)", _runs("--dry-run")),
    (r"rubric-rl eval winrate runs/", _stops_at("runs/first/model")),
    (r"rubric-rl eval (healthbench|prbench) ", _stops_at(MISSING)),
    (r"rubric-rl eval overopt .*--gold-rubrics ", _runs()),
    (r"rubric-rl eval overopt .*--gold ", _stops_at(MISSING)),
    (r"rubric-rl eval overopt (?!.*--gold)", _stops_at("has no gold value")),
    (r"rubric-rl theory(?!.*--dry-run)", _runs("--dry-run")),
    (r"rubric-rl tables (?!.*--dry-run)", _runs("--dry-run")),
    (r"rubric-rl tables .*--dry-run", _runs()),
    # Other trainers.
    (r"rubric-rl serve ", _runs("--dry-run")),
    (r"curl ", _posts_answers),
    (r"(RUBRIC_RL_URL=\S+ )?python -m openrlhf\.", _openrlhf_knows_its_options),
    (r"python -m verl\.", _verl_finds_ours),
)


def _rules_of(command: Command) -> list[Check]:
    return [check for pattern, check in RULES if re.match(pattern, command.line)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.file}: {c.line[:60]}")
def test_a_command_does_what_it_says(command: Command, workspace: Path, monkeypatch, capsys):
    rules = _rules_of(command)
    assert len(rules) == 1, f"{len(rules)} rules are on it: {command.line}"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.chdir(workspace)
    rules[0](Ran(command.words, workspace, lambda: capsys.readouterr().err))


def test_a_command_that_no_rule_covers_is_found():
    assert _rules_of(Command("README.md", "rubric-rl fly me")) == []
    assert _rules_of(Command("README.md", "rm -r runs")) == []


def test_no_rule_is_left_over():
    unused = [
        pattern for pattern, _ in RULES if not any(re.match(pattern, c.line) for c in COMMANDS)
    ]
    assert unused == []
