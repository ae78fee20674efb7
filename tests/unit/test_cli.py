"""The `rubric-rl` command: arguments, exit codes, and what it doesn't import."""

import subprocess
import sys
from collections.abc import Sequence

import pytest
import yaml

from rubric_rl import __version__, cli
from rubric_rl.errors import PlacementError

HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers", "wandb", "openrlhf")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cfg_job_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "experiment=quickstart_cpu", "--cfg", "job", "run.seed=3"]
    assert cli.main(arguments) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["run"]["name"], printed["run"]["seed"]) == ("quickstart_cpu", 3)


def test_cfg_job_imports_no_engine() -> None:
    code = (
        "import sys\n"
        "from rubric_rl.cli import main\n"
        "assert main(['train', 'experiment=paper_health', '--cfg', 'job']) == 0\n"
        f"sys.exit(', '.join(sorted(set({HEAVY!r}) & set(sys.modules))))\n"
    )
    assert _run("-c", code).stderr == "\n"


def test_the_train_module_is_the_train_command() -> None:
    arguments = ("experiment=quickstart_cpu", "run.dir=runs/x", "--cfg", "job")
    module = _run("-m", "rubric_rl.train", *arguments)
    command = _run("-m", "rubric_rl.cli", "train", *arguments)
    assert (module.returncode, module.stderr) == (0, "")
    assert module.stdout == command.stdout


def test_an_error_in_the_configuration_is_one_line_and_exit_code_two() -> None:
    result = _run("-m", "rubric_rl.train", "learner.lerning_rate=1")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: learner.lerning_rate is not a known key: did you mean learner.learning_rate?\n"
    )


def _raises(error: BaseException) -> object:
    def command(arguments: Sequence[str]) -> int:
        raise error

    return command


def test_every_error_of_ours_is_printed_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli._COMMANDS, "train", _raises(PlacementError("16 GPUs, has 8")))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "error: 16 GPUs, has 8\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli._COMMANDS, "train", _raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_an_interrupt_exits_as_shells_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli._COMMANDS, "train", _raises(KeyboardInterrupt()))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out == f"rubric-rl {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["train", "--cfg", "all"]])
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    assert exited.value.code == 2


def test_train_help_belongs_to_train(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["train", "--help"])
    assert exited.value.code == 0
    assert "--dry-run" in capsys.readouterr().out
