"""The README tells what is true: its tables and commands are those of the code."""

import re
import shlex
from pathlib import Path

import pytest

from rubric_rl.cli import main as command_line
from rubric_rl.commands.evaluate import main as evaluate
from rubric_rl.commands.report import main as report
from rubric_rl.commands.rubrics import main as rubrics
from rubric_rl.config.compose import compose
from rubric_rl.errors import DataError
from rubric_rl.integrations.serve import main as serve
from rubric_rl.observability.metrics import markdown_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    found = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return "\n".join(found).replace("\\\n", " ").splitlines()


def commands(name: str = "train") -> list[str]:
    return [line for line in blocks() if line.startswith(f"rubric-rl {name}")]


def test_the_metrics_table_is_the_list_of_metrics():
    assert markdown_table().strip() in README


def test_there_are_commands_to_check():
    assert len(commands()) >= 5


@pytest.mark.parametrize("command", commands())
def test_every_training_command_composes(command: str):
    words = shlex.split(command, comments=True)[2:]
    compose([word for word in words if not word.startswith("-") and word != "job"])


@pytest.mark.parametrize("command", commands("eval"))
def test_every_evaluation_is_understood(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)[1:]
    # What it is told is right, so that the first fault is a file that isn't there.
    with pytest.raises(DataError, match=r"no such file|does not exist"):
        evaluate(words[1:])


@pytest.mark.parametrize("command", commands("report"))
def test_every_report_is_understood(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        report(shlex.split(command, comments=True)[2:])


@pytest.mark.parametrize("command", [*commands("serve"), *commands("rubrics export")])
def test_every_command_for_other_trainers_is_understood(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)[1:]
    main = {"serve": serve, "rubrics": rubrics}[words[0]]
    with pytest.raises(DataError, match=r"no such file|does not exist"):
        main(words[1:])


@pytest.mark.parametrize("command", commands("plan"))
def test_every_plan_fits(command: str, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert command_line(shlex.split(command, comments=True)[1:]) == 0


@pytest.mark.parametrize("command", commands("doctor"))
def test_every_doctor_has_checks(command: str):
    assert command_line([*shlex.split(command, comments=True)[1:], "--dry-run"]) == 0


@pytest.mark.parametrize("script", ["ray_job.sh", "slurm.sh"])
def test_every_launch_names_a_script_and_composes(script: str):
    (line,) = [line for line in blocks() if f" launch/{script} " in line]
    words = shlex.split(line)[2:]
    assert (ROOT / "launch" / script).is_file() and words
    compose([*words, "run.resume=auto"])


def test_every_file_of_the_layout_exists():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
