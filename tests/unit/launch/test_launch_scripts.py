"""Launch scripts with stand-ins for ray, srun and scontrol: what they call, and in which order."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from rubric_rl.config.compose import compose

ROOT = Path(__file__).parents[3]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses(script: Path):
    subprocess.run(["bash", "-n", str(script)], check=True)


def _stand_in(folder: Path, name: str, body: str) -> None:
    """A command that notes its arguments in calls.log and then does `body`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$CALLS"\n{body}\n', encoding="utf-8")
    path.chmod(0o755)


# ----------------------------------------------------------------------------
# ray job submit


def _submit(tmp_path: Path, *arguments: str, **variables: str) -> tuple[int, str, list[str]]:
    calls = tmp_path / "calls.log"
    calls.touch()
    _stand_in(tmp_path / "bin", "ray", "")
    environment = {
        "PATH": os.environ["PATH"],
        "CALLS": str(calls),
        "RAY": str(tmp_path / "bin" / "ray"),
        "RAY_API_SERVER_ADDRESS": "http://head:8265",
        "OPENAI_API_KEY": "secret-key",
        **variables,
    }
    done = subprocess.run(
        ["bash", str(LAUNCH / "ray_job.sh"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, calls.read_text(encoding="utf-8").splitlines()


def test_a_job_is_submitted_so_that_it_resumes(tmp_path: Path):
    overrides = ("experiment=paper_health", "run.dir=/shared/runs/x", "data.path=/shared/x.jsonl")
    code, _, calls = _submit(tmp_path, *overrides, SUBMISSION_ID="one", NO_WAIT="1")
    assert code == 0
    assert calls == [
        "ray job submit --working-dir . --runtime-env launch/runtime_env.yaml --submission-id one "
        "--no-wait -- python -m rubric_rl.train run.resume=auto " + " ".join(overrides)
    ]
    words = calls[0].split("rubric_rl.train ")[1].split()
    assert compose(words).run.resume == "auto"
    assert compose([*words, "run.resume=never"]).run.resume == "never"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("experiment=paper_health",), "run.dir=/ABSOLUTE/FOLDER"),
        (("run.dir=runs/x",), "run.dir=/ABSOLUTE/FOLDER"),
        (("run.dir=/runs/x", "data.path=data/x.jsonl"), "make it absolute"),
        (("run.dir=/runs/x", "run.name=a b"), "has characters that a shell changes"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused_here(tmp_path: Path, arguments, message: str):
    code, err, calls = _submit(tmp_path, *arguments)
    assert code == 2 and message in err and calls == []


def test_a_job_needs_an_address(tmp_path: Path):
    code, err, calls = _submit(tmp_path, "run.dir=/runs/x", RAY_API_SERVER_ADDRESS="")
    assert code == 2 and "RAY_API_SERVER_ADDRESS is not set" in err and calls == []


def test_the_runtime_environment_leaves_out_what_is_large_or_secret(tmp_path: Path):
    from ray._private.runtime_env.packaging import create_package

    settings = yaml.safe_load((LAUNCH / "runtime_env.yaml").read_text(encoding="utf-8"))
    # `ray job stop` waits for the checkpoint.
    assert int(settings["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600
    assert not [name for name in settings["env_vars"] if "KEY" in name or "TOKEN" in name]
    checkout = tmp_path / "checkout"
    wanted = ("rubric_rl/data/x.py", "configs/train.yaml", "launch/setup.sh", "pyproject.toml")
    unwanted = (
        ".git/HEAD",
        ".venv/bin/python",
        "data/health.jsonl",
        "runs/a/checkpoints/x",
        "tests/unit/test_x.py",
        ".env",
        "keys.env",
        "model.safetensors",
        "keys/a.pem",
    )
    for name in (*wanted, *unwanted):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x", encoding="utf-8")
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, True, excludes=settings["excludes"])
    shutil.unpack_archive(package, tmp_path / "sent")
    sent = {
        str(path.relative_to(tmp_path / "sent"))
        for path in (tmp_path / "sent").rglob("*")
        if path.is_file()
    }
    assert sent == set(wanted)


# ----------------------------------------------------------------------------
# Slurm


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """A two-node job: steps run here, Ray's heads and workers last until they are ended."""
    bin_dir = tmp_path / "bin"
    _stand_in(bin_dir, "scontrol", '[ "$1" = show ] && printf "n0\\nn1\\n"; exit 0')
    _stand_in(bin_dir, "squeue", 'echo "$STATE"')
    # Options first, then the command.
    _stand_in(bin_dir, "srun", 'while [[ "$1" == --* ]]; do shift; done; exec "$@"')
    # A node is up once it can be ended.
    _stand_in(
        bin_dir,
        "ray",
        'if [ "$1" = status ]; then sed "s/^/ 1 node_/" "$CALLS.up"; exit 0; fi\n'
        'trap "echo ended $2 >>$CALLS; exit 0" TERM\n'
        '[ "$JOINS" = 0 ] || echo x >>"$CALLS.up"; while :; do sleep 0.05; done',
    )
    _stand_in(
        bin_dir,
        "rubric-rl",
        'trap "sleep 0.2; exit $ENDS" TERM\n'
        '[ "$LASTS" = 0 ] && exit "$CODE"\nwhile :; do sleep 0.05; done',
    )
    calls = tmp_path / "calls.log"
    calls.touch()
    Path(f"{calls}.up").touch()
    return {
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "SLURM_JOB_NODELIST": "n[0-1]",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "12",
        "RUBRIC_RL": str(bin_dir / "rubric-rl"),
        "JOINS": "1",
        "LASTS": "0",
        "CODE": "0",
        "ENDS": "130",
        "STATE": "RUNNING",
    }


def _calls(environment: dict[str, str]) -> list[str]:
    return Path(environment["CALLS"]).read_text(encoding="utf-8").splitlines()


def _sbatch(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sh"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_slurm_job_starts_ray_trains_and_stops_ray(slurm: dict[str, str]):
    job = _sbatch(slurm, "experiment=paper_health", "run.dir=/shared/x")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0, output
    calls = _calls(slurm)
    srun = [call for call in calls if call.startswith("srun")]
    assert any("--nodelist=n0" in c and "start --head --block" in c for c in srun)
    assert any("--nodelist=n1" in c and "--address=n0:6379" in c for c in srun)
    # Else Slurm gives a step one core, and Ray counts the machine's.
    assert all("--cpus-per-task=12" in c and "--num-cpus=12" in c for c in srun)
    assert not any("metrics" in c for c in srun)
    train = "rubric-rl train run.resume=auto experiment=paper_health run.dir=/shared/x"
    assert calls.index(train) > calls.index("ray status")
    assert calls[-2:] == ["ended --head", "ended --block"] or calls[-2:] == [
        "ended --block",
        "ended --head",
    ]
    assert not any("requeue" in call for call in calls)


def test_each_node_shows_its_metrics_at_the_port_asked_for(slurm: dict[str, str]):
    job = _sbatch({**slurm, "RAY_METRICS_PORT": "8080"}, "run.dir=/shared/x")
    job.communicate(timeout=60)
    starts = [call for call in _calls(slurm) if call.startswith("ray start")]
    assert len(starts) == 2 and all("--metrics-export-port=8080" in call for call in starts)


def test_a_failed_run_ends_the_job_with_its_code(slurm: dict[str, str]):
    job = _sbatch({**slurm, "CODE": "2"}, "run.dir=/shared/x")
    job.communicate(timeout=60)
    assert job.returncode == 2
    assert "ended --head" in _calls(slurm) and "scontrol requeue 7" not in _calls(slurm)


def _ask_to_stop(job: subprocess.Popen[str], environment: dict[str, str], after: str) -> str:
    deadline = time.monotonic() + 60
    while not any(call.startswith(after) for call in _calls(environment)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)  # its trap is set
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    return output


@pytest.mark.parametrize(
    ("changes", "after", "when"),
    [
        ({"LASTS": "1"}, "rubric-rl train", "in training"),
        ({"LASTS": "1", "ENDS": "143"}, "rubric-rl train", "before training"),
        ({"LASTS": "1", "ENDS": "15"}, "rubric-rl train", "before training"),
        ({"JOINS": "0"}, "ray status", "before Ray was up"),
    ],
)
def test_a_job_that_is_asked_to_stop_queues_again(slurm, changes, after: str, when: str):
    environment = {**slurm, **changes}
    job = _sbatch(environment, "run.dir=/shared/x")
    output = _ask_to_stop(job, environment, after)
    assert job.returncode == 130, output
    assert f"asked to stop {when}: queueing again" in output
    calls = _calls(environment)
    assert calls.index("scontrol requeue 7") < calls.index("ended --head")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"STATE": "COMPLETING"}, 130),  # by scancel
        ({"STATE": ""}, 130),
        ({"ENDS": "143", "SLURM_RESTART_COUNT": "3"}, 1),
    ],
)
def test_a_job_that_would_come_back_for_ever_or_is_cancelled_ends(slurm, changes, code: int):
    environment = {**slurm, "LASTS": "1", **changes}
    job = _sbatch(environment, "run.dir=/shared/x")
    output = _ask_to_stop(job, environment, "rubric-rl train")
    assert job.returncode == code and "scontrol requeue 7" not in _calls(environment)
    assert ("give the job more time" in output) == (code == 1)
    assert ("not queueing again: the job is " in output) == (code == 130)


def test_a_run_that_fails_while_it_is_asked_to_stop_does_not_queue_again(slurm: dict[str, str]):
    environment = {**slurm, "LASTS": "1", "ENDS": "1"}
    job = _sbatch(environment, "run.dir=/shared/x")
    _ask_to_stop(job, environment, "rubric-rl train")
    assert job.returncode == 1 and "scontrol requeue 7" not in _calls(environment)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("experiment=x",), {}, "give run.dir=FOLDER"),
        (("run.dir=/x",), {"RUBRIC_RL": "/nowhere/rubric-rl"}, "set RUBRIC_RL"),
    ],
)
def test_a_slurm_job_that_cannot_go_on_is_refused(slurm, arguments, changes, message: str):
    job = _sbatch({**slurm, **changes}, *arguments)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 2 and message in output
    assert _calls(slurm) == []
