"""What the pools tell Ray's metrics, read as a scraper reads them from the node."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray

from rubric_rl.errors import WorkerDiedError
from rubric_rl.runtime.judge_pool import RayJudgePool
from rubric_rl.runtime.rollout_pool import RayRolloutPool

from .builders import make_judge_requests, make_requests, make_waiting, notes, run, until

Figures = dict[tuple[str, ...], float]

_LINE = re.compile(r"ray_(rubric_rl_\w+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# Ray exports every ten seconds.
_EXPORT_S = 25.0


def figures_of(run_name: str) -> Figures:
    """Values of one run by metric and its own labels, such as ("..._in_flight", "judge 0")."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    found: Figures = {}
    for name, labels, value in _LINE.findall(text):
        tags = dict(_LABEL.findall(labels))
        if tags["run"] == run_name:
            key = [tags[tag] for tag in ("pool", "worker", "outcome", "cause") if tag in tags]
            found[name.removeprefix("rubric_rl_"), *key] = float(value)
    return found


async def shown(run_name: str, expected: Figures) -> Figures:
    """The figures once those expected are among them, or as they are when the time is up."""
    figures: Figures = {}
    deadline = asyncio.get_running_loop().time() + _EXPORT_S
    while asyncio.get_running_loop().time() < deadline:
        figures = await asyncio.to_thread(figures_of, run_name)
        if expected.items() <= figures.items():
            break
        await asyncio.sleep(0.5)
    return {key: value for key, value in figures.items() if key in expected}


def test_the_judge_pool_shows_its_queue_its_workers_and_what_became_of_samples(
    judges: dict[str, Any], judge_folder: Path
) -> None:
    held = {
        ("pool_queued", "judge"): 4.0,  # 10 samples, 2 workers with 3 places each
        ("pool_in_flight", "judge", "judge 0"): 3.0,
        ("pool_in_flight", "judge", "judge 1"): 3.0,
        ("pool_worker_up", "judge", "judge 0"): 1.0,
    }
    (hanging,) = make_judge_requests(1, "hang")
    after = {
        ("pool_queued", "judge"): 0.0,
        ("pool_in_flight", "judge", "judge 0"): 0.0,
        ("pool_samples_total", "judge", "ok"): 10.0,
        ("pool_samples_total", "judge", "timeout"): 1.0,
        ("pool_samples_total", "judge", "cancelled"): 1.0,
        ("unknown_verdicts_total", "judge", "timeout"): float(len(hanging.rubric.criteria)),
    }

    async def work() -> tuple[Figures, Figures]:
        pool = RayJudgePool(judges, max_in_flight_per_worker=3, timeout_s=30.0, run="judging")
        (judge_folder / "hold").touch()
        judging = asyncio.gather(*(pool.judge(request) for request in make_judge_requests(10)))
        await until(lambda: len(notes(judge_folder, "began")) == 6)
        while_held = await shown("judging", held)
        (judge_folder / "hold").unlink()
        await judging
        cancelled = asyncio.create_task(pool.judge(hanging))
        await until(lambda: len(notes(judge_folder, "began")) == 10)
        await asyncio.sleep(0.2)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        impatient = RayJudgePool(judges, max_in_flight_per_worker=3, timeout_s=1.0, run="judging")
        await impatient.judge(hanging)
        return while_held, await shown("judging", after)

    assert run(work()) == (held, after)


def test_the_rollout_pool_shows_its_queue_and_a_worker_that_failed(engines: dict[str, Any]) -> None:
    held = {
        ("pool_queued", "rollout"): 6.0,  # 6 samples each, 1 out, 5 left: 2 decoded, 3 wait
        ("pool_in_flight", "rollout", "rollout 0"): 2.0,
        ("pool_in_flight", "rollout", "rollout 1"): 2.0,
    }
    after = {
        ("pool_queued", "rollout"): 0.0,
        ("pool_in_flight", "rollout", "rollout 1"): 0.0,
        ("pool_worker_up", "rollout", "rollout 0"): 1.0,
        ("pool_worker_up", "rollout", "rollout 1"): 0.0,
        ("pool_samples_total", "rollout", "ok"): 2.0 + 3.0,
        ("pool_samples_total", "rollout", "cancelled"): 10.0,
        ("pool_samples_total", "rollout", "failed"): 3.0,
    }

    async def work() -> tuple[Figures, Figures]:
        pool = RayRolloutPool(
            engines,
            make_waiting(),
            sample_timeout_s=60.0,
            takes_turns=False,
            places=2,
            run="rolling out",
        )
        for engine in engines.values():
            await engine.script.remote("silent", after=1)
        samples = pool.generate(make_requests(4, 3))
        for _ in range(2):
            await anext(samples)
        while_held = await shown("rolling out", held)
        await samples.aclose()
        await engines["rollout 0"].script.remote()
        await engines["rollout 1"].script.remote("raises", held=True)
        samples = pool.generate(make_requests(2, 3))
        for _ in range(3):  # those of the healthy worker
            await anext(samples)
        await engines["rollout 1"].release.remote()
        with pytest.raises(WorkerDiedError):
            await anext(samples)
        return while_held, await shown("rolling out", after)

    assert run(work()) == (held, after)
