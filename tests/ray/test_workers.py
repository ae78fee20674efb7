"""What each worker is given: engine and learner settings, environments, the judge's key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray._private.worker as ray_worker

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.judging.endpoint import JudgeIdentity
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.runtime import workers
from rubric_rl.runtime.cluster import reserve
from rubric_rl.runtime.judges import JudgeStart, create_judges, judge_secrets, judge_setup
from rubric_rl.runtime.placement import plan_placement
from rubric_rl.runtime.workers import WorkerSettings, engine_spec, learner_spec

from .builders import make_config, make_waiting, run

KEY = "sk-of-nobody-5d1f"
KEY_NAME = "RUBRIC_RL_TEST_KEY"
WITH_LLM = [
    "judge=openai",
    "judge.llm.base_url=http://localhost:1/v1",
    "judge.llm.model=judge-1",
    f"judge.llm.api_key_env={KEY_NAME}",
]
JUDGE_START = JudgeStart(
    run_id="run-1", identity=None, templates=JudgeTemplates.load(), cache_dir=None
)
SETTINGS = WorkerSettings(
    model_path="/models/m", stop_token_ids=(2, 5), num_steps=12, judge=JUDGE_START
)


def paper(*overrides: str) -> Config:
    return compose(["experiment=paper_health", "run.dir=unused", *overrides])


# ----------------------------------------------------------------------------
# Settings


def test_the_quickstarts_engine_is_a_small_one_on_cpu() -> None:
    lengths = ["data.max_prompt_tokens=100", "rollout.max_new_tokens=20"]
    spec = engine_spec(make_config("rollout.num_threads=2", *lengths), SETTINGS, num_threads=2)
    assert (spec.model_path, spec.device, spec.dtype) == ("/models/m", "cpu", "float32")
    assert spec.stop_token_ids == (2, 5)
    assert spec.weight_transport == "object_store"
    assert (spec.sleep_mode, spec.deterministic) == (False, True)
    assert spec.max_model_tokens == 120
    assert spec.num_threads == 2


def test_the_papers_engines_share_gpus_with_the_learner() -> None:
    spec = engine_spec(paper(), SETTINGS, num_threads=2)
    assert (spec.device, spec.dtype, spec.tensor_parallel_size) == ("gpu", "bfloat16", 1)
    assert spec.weight_transport == "ipc"
    assert spec.sleep_mode
    assert spec.max_model_tokens == 3584  # Table 4


@pytest.mark.parametrize(
    ("device", "placement", "sleeps"),
    [
        ("gpu", "colocated", True),
        ("gpu", "disaggregated", False),
        ("cpu", "colocated", False),
        ("cpu", "disaggregated", False),
    ],
)
def test_only_engines_on_the_learners_gpus_can_sleep(
    device: str, placement: str, sleeps: bool
) -> None:
    config = make_config(f"cluster.device={device}", f"cluster.placement={placement}")
    assert engine_spec(config, SETTINGS, num_threads=2).sleep_mode is sleeps


def test_generation_that_runs_ahead_is_not_queued_first() -> None:
    assert (
        engine_spec(make_config("algorithm.max_staleness=1"), SETTINGS, num_threads=2).deterministic
        is False
    )
    assert (
        engine_spec(
            make_config("rollout.deterministic=false"), SETTINGS, num_threads=2
        ).deterministic
        is False
    )


def test_the_learner_knows_the_length_of_the_run() -> None:
    config = make_config("run.seed=3")
    spec = learner_spec(config, SETTINGS)
    assert (spec.model_path, spec.num_steps, spec.seed) == ("/models/m", 12, 3)
    assert (spec.learner, spec.algorithm) == (config.learner, config.algorithm)


def test_the_learner_takes_the_device_of_the_cluster() -> None:
    assert learner_spec(make_config(), SETTINGS).device == "cpu"
    assert learner_spec(paper(), SETTINGS).device == "gpu"


def test_a_worker_keeps_freed_memory_on_cpu_only() -> None:
    on_cpu = workers._environment(make_config(), 2)["env_vars"]
    assert on_cpu["OMP_NUM_THREADS"] == "2"
    assert on_cpu["MALLOC_MMAP_MAX_"] == "0"
    assert on_cpu["DS_ACCELERATOR"] == "cpu"
    on_gpu = workers._environment(paper(), 4)["env_vars"]
    assert on_gpu == {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1, 1, 2), "1 learner rank, 1 rollout worker, 2 judge workers"),
        ((2, 3, 1), "2 learner ranks, 3 rollout workers, 1 judge worker"),
    ],
)
def test_workers_are_counted_in_words(counts: tuple[int, int, int], words: str) -> None:
    sections = ("learner", "rollout", "judge")
    overrides = [f"{name}.num_workers={n}" for name, n in zip(sections, counts, strict=True)]
    assert plan_placement(make_config(*overrides)).workers == words


# ----------------------------------------------------------------------------
# The key


def test_only_the_judge_is_given_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)
    config = make_config(*WITH_LLM)
    assert judge_secrets(config) == {KEY_NAME: KEY}
    others = (
        engine_spec(config, SETTINGS, num_threads=2),
        learner_spec(config, SETTINGS),
        config.judge,
    )
    assert KEY not in f"{others} {workers._environment(config, 1)}"


def test_a_judge_without_a_key_is_given_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)
    assert judge_secrets(make_config()) == {}
    assert judge_secrets(make_config(*WITH_LLM[:-1], "judge.llm.api_key_env=null")) == {}
    monkeypatch.delenv(KEY_NAME)
    assert judge_secrets(make_config(*WITH_LLM)) == {}  # the judge itself says what is missing


def test_the_key_reaches_the_judges_and_none_of_rays_logs(
    cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Ray is running already: its workers don't inherit what is set here.
    monkeypatch.setenv(KEY_NAME, KEY)
    config = make_config(*WITH_LLM, "judge.num_workers=1")

    async def work() -> None:
        reserved = await reserve(plan_placement(config), make_waiting(), 30)
        try:
            identity = JudgeIdentity(contract="text", served_model="judge-1", logprobs=False)
            setup = judge_setup(config, replace(JUDGE_START, identity=identity))
            judges = create_judges(config, setup, reserved, str(tmp_path))
            # A judge whose key is missing can't be created.
            ready = {label: judge.ready.remote() for label, judge in judges.items()}
            await make_waiting().all("1 judge worker", ready, 60)
        finally:
            reserved.release()

    run(work())
    node: Any = ray_worker._global_node
    logs = Path(node.get_logs_dir_path())
    texts = [path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file()]
    texts += [path.read_text() for path in tmp_path.iterdir()]
    assert any("OMP_NUM_THREADS" in text for text in texts)  # environments do get there
    assert not any(KEY in text for text in texts)
