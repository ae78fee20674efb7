"""One Ray for all tests here, and actors that they share.

Starting an actor takes a second, so healthy ones are started once and told how
to behave by each test; tests that leave them broken start their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.cloudpickle
import ray.exceptions

from rubric_rl.config.schema import ClusterConfig
from rubric_rl.runtime.cluster import ray_cluster

from . import fakes

Actors = dict[str, Any]
Starter = Callable[..., Any]

_RESTART_S = 30.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Ray on this machine, until the last test is over."""
    # The workers can't import this module: send its classes whole.
    ray.cloudpickle.register_pickle_by_value(fakes)
    with ray_cluster(ClusterConfig(address="local")):
        yield
    assert not ray.is_initialized()


@pytest.fixture
def start(cluster: None) -> Iterator[Starter]:
    """Start actors that end with the test: `start(cls, *args, **options)`."""
    started: list[Any] = []

    def start_actor(cls: type, *args: object, **options: object) -> Any:
        started.append(_start(cls, *args, **options))
        return started[-1]

    yield start_actor
    for actor in started:
        ray.kill(actor)


def _start(cls: type, *args: object, **options: object) -> Any:
    return ray.remote(cls).options(num_cpus=0, **options).remote(*args)


# ----------------------------------------------------------------------------
# Shared actors


@pytest.fixture(scope="session")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def shared_engines(cluster: None, log_dir: Path) -> Actors:
    return {
        f"rollout {i}": _start(fakes.FakeRolloutWorker, f"{log_dir}/rollout_{i}.log", f"engine{i}")
        for i in range(2)
    }


@pytest.fixture(scope="session")
def shared_ranks(cluster: None, log_dir: Path) -> Actors:
    return {
        f"learner {i}": _start(fakes.FakeLearnerWorker, f"{log_dir}/learner_{i}.log", i)
        for i in range(2)
    }


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="session")
def shared_judges(cluster: None, log_dir: Path, judge_folder: Path) -> Actors:
    return {
        f"judge {i}": _start(
            fakes.HeldJudgeWorker,
            f"{log_dir}/judge_{i}.log",
            str(judge_folder),
            max_restarts=-1,
        )
        for i in range(2)
    }


@pytest.fixture
def engines(shared_engines: Actors) -> Actors:
    """Two rollout workers with healthy engines of policy version 0."""
    ray.get([engine.script.remote() for engine in shared_engines.values()])
    return shared_engines


@pytest.fixture
def ranks(shared_ranks: Actors) -> Actors:
    """Two healthy learner ranks of policy version 0."""
    ray.get([rank.script.remote() for rank in shared_ranks.values()])
    return shared_ranks


@pytest.fixture
def judges(shared_judges: Actors, judge_folder: Path) -> Actors:
    """Two judges that are up, and a folder without notes."""
    for judge in shared_judges.values():
        pid_of(judge)
    for path in judge_folder.iterdir():
        path.unlink()
    return shared_judges


def pid_of(judge: Any) -> int:
    """The process of a judge, waiting while it is started again."""
    deadline = time.monotonic() + _RESTART_S
    while True:
        try:
            return ray.get(judge.pid.remote(), timeout=_RESTART_S)
        except ray.exceptions.ActorUnavailableError:
            assert time.monotonic() < deadline, "the judge never came back"
            time.sleep(0.1)
