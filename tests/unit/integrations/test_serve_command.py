"""`rubric-rl serve` as a command: what it checks, and how it stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rubric_rl.errors import ConfigError, DataError
from rubric_rl.integrations.remote_rewards import RemoteRewards
from rubric_rl.integrations.scored_answers import ScoreRequest
from rubric_rl.integrations.serve import main

from .judges import write_prompts


def test_a_dry_run_says_what_would_be_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_prompts(tmp_path / "prompts.jsonl")
    assert main(["--rubrics", str(path), "judge=rules", "--host", "0.0.0.0", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("2 prompts with rubrics, judged by rules alone\n")
    assert "warning: whoever reaches 0.0.0.0 may ask this judge" in said


def test_what_is_wrong_is_said_before_anything_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_prompts(tmp_path / "prompts.jsonl", rules=False)
    with pytest.raises(ConfigError, match="criteria without a rule"):
        main(["--rubrics", str(path)])
    with pytest.raises(ConfigError, match="no effect on serving"):
        main(["--rubrics", str(path), "learner.lr=1"])
    with pytest.raises(DataError):
        main(["--rubrics", str(tmp_path / "none.jsonl")])
    path = write_prompts(tmp_path / "prompts.jsonl")
    monkeypatch.setenv("SERVE_KEY", "")
    with pytest.raises(ConfigError, match="--api-key-env"):
        main(["--rubrics", str(path), "--api-key-env", "SERVE_KEY"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ConfigError, match=f"port {port}.*choose another --port"):
            main(["--rubrics", str(path), "--port", port])


def test_the_command_serves_with_its_key_until_it_is_told_to_stop(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.jsonl")
    command = [sys.executable, "-m", "rubric_rl.cli", "serve", "--rubrics", str(path)]
    command += ["judge=rules", "--port", "0", "--api-key-env", "SERVE_KEY"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"SERVE_KEY": "s3cret"}
    ) as server:
        assert server.stderr is not None
        said = [server.stderr.readline(), server.stderr.readline()]
        url = said[1].split()[-1]
        request = ScoreRequest(response="A", prompt_id="p1")
        scored = RemoteRewards(url, api_key="s3cret").score([request])
        with pytest.raises(ConfigError, match="RUBRIC_RL_API_KEY"):
            RemoteRewards(url, api_key="other").score([request])
        server.send_signal(signal.SIGTERM)
        said.append(server.stderr.read())
        assert server.wait(20) == 0
    assert [answer.reward for answer in scored] == [0.75]
    assert said[0] == "2 prompts with rubrics, judged by rules alone\n"
    assert said[2] == "stopped\n"
