"""The judge pool against an endpoint with log-normal latency, beside threads that score in phases.

    .venv/bin/python tests/bench/judge_pool.py [--prompts 500] [--answers 16] [--concurrency 128]

The ideal is the sum of all latencies over the allowed concurrency. The other approach is one
phase of 128 threads with a blocking client and a single retry, on the same prompts, templates
and latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.types import (
    Criterion,
    JudgeRequest,
    Message,
    PromptRecord,
    Rubric,
    Sample,
    VerdictValue,
)

SERVER = Path(__file__).with_name("latency_server.py")


def requests_of(prompts: int, answers: int, criteria: int = 8) -> list[JudgeRequest]:
    """Prompts x answers, each with its own text."""
    return [
        JudgeRequest(record=_record(p), rubric=_rubric(p, criteria), sample=_sample(p, a))
        for p in range(prompts)
        for a in range(answers)
    ]


def _record(prompt: int) -> PromptRecord:
    turn = Message(role="user", content=f"Question {prompt}: how do I look after a small wound?")
    return PromptRecord(
        prompt_id=f"p{prompt}", messages=(turn,), domain="health", source="bench", row_hash="0"
    )


def _rubric(prompt: int, criteria: int) -> Rubric:
    return Rubric(
        prompt_id=f"p{prompt}",
        version=0,
        criteria=tuple(
            Criterion(cid=f"c{i}", text=f"Mentions step {i} of question {prompt}.", weight=1.0)
            for i in range(1, criteria + 1)
        ),
    )


def _sample(prompt: int, answer: int) -> Sample:
    text = f"Answer {answer} to question {prompt}. " + "Clean it, cover it, watch it. " * 20
    return Sample(
        prompt_id=f"p{prompt}",
        sample_index=answer,
        prompt_token_ids=(1,),
        completion_token_ids=(2,),
        log_probs=(0.0,),
        loss_mask=(1,),
        text=text,
        finish_reason="stop",
        seed=0,
        policy_version=0,
    )


@contextmanager
def latency_server(median_s: float, sigma: float) -> Iterator[str]:
    """Address of a server of its own process."""
    command = [sys.executable, str(SERVER), f"--median-s={median_s}", f"--sigma={sigma}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()


def stats(base_url: str) -> dict:
    """What the server saw since it was asked last."""
    url = base_url.removesuffix("/v1") + "/stats?reset=1"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        return json.load(answer)


def pool_config(base_url: str, concurrency: int, workers: int) -> Config:
    return compose(
        [
            "experiment=quickstart_cpu",
            "run.dir=unused",
            "judge=openai",
            f"judge.llm.base_url={base_url}",
            "judge.llm.model=judge",
            "judge.llm.api_key_env=null",
            f"judge.num_workers={workers}",
            f"judge.max_in_flight_per_worker={-(-concurrency // workers) + 16}",
            f"judge.budget.max_concurrency={concurrency}",
        ]
    )


async def through_the_pool(config: Config, requests: list[JudgeRequest]) -> tuple[float, int]:
    """Seconds for all requests once the workers are ready, and the verdicts that are unknown."""
    from rubric_rl.judging.endpoint import check_judge
    from rubric_rl.runtime.cluster import reserve
    from rubric_rl.runtime.judges import JudgeStart, StartingServers, start_judges
    from rubric_rl.runtime.placement import plan_placement
    from rubric_rl.runtime.waiting import Waiting

    assert config.judge.llm is not None
    waiting = Waiting(show=lambda _: None, log_dir=tempfile.mkdtemp())
    reserved = await reserve(plan_placement(config), waiting, 60)
    try:
        start = JudgeStart(
            run_id=f"bench-{time.time()}",
            identity=await check_judge(config.judge.llm),
            templates=JudgeTemplates.load(),
            cache_dir=Path(tempfile.mkdtemp()),
        )
        servers = StartingServers(addresses={}, key="")
        pool = await start_judges(config, start, reserved, servers, waiting)
        # Other prompts than those measured, whose verdicts would be in the cache.
        warm_up = [replace(r, rubric=_rubric(10**6, 8)) for r in requests_of(1, 32)]
        await asyncio.gather(*(pool.judge(request) for request in warm_up))
        stats(config.judge.llm.endpoint_names[0])
        began = time.perf_counter()
        judgements = await asyncio.gather(*(pool.judge(request) for request in requests))
        seconds = time.perf_counter() - began
    finally:
        reserved.release()
    unknown = sum(v.value is VerdictValue.UNKNOWN for j in judgements for v in j.verdicts)
    return seconds, unknown


def in_phases(base_url: str, requests: list[JudgeRequest], threads: int) -> float:
    """Seconds for one phase of blocking calls, each with a single retry."""
    import openai

    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=1)
    templates = JudgeTemplates.load()

    def score(request: JudgeRequest) -> None:
        messages = templates.messages(
            conversation=request.record.messages,
            answer=request.sample.text,
            criteria=request.rubric.criteria,
            nonce="0",
        )
        turns = [{"role": m.role, "content": m.content} for m in messages]
        client.chat.completions.create(model="judge", messages=turns, temperature=0.0)

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(score, requests))
    return time.perf_counter() - began


def report(name: str, seconds: float, seen: dict, concurrency: int) -> None:
    ideal = seen["total_latency_s"] / concurrency
    print(
        f"{name:<28} {seconds:8.1f} s  ideal {ideal:6.1f} s  share of ideal {ideal / seconds:6.1%}"
        f"  requests {seen['requests']:6}  peak {seen['peak_in_flight']:4}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--median-s", type=float, default=0.4)
    parser.add_argument("--sigma", type=float, default=0.6)
    args = parser.parse_args()
    from rubric_rl.config.schema import ClusterConfig
    from rubric_rl.runtime.cluster import ray_cluster

    requests = requests_of(args.prompts, args.answers)
    with latency_server(args.median_s, args.sigma) as base_url:
        config = pool_config(base_url, args.concurrency, args.workers)
        with ray_cluster(ClusterConfig(address="local")):
            seconds, unknown = asyncio.run(through_the_pool(config, requests))
        report("judge pool", seconds, stats(base_url), args.concurrency)
        print(f"unknown verdicts: {unknown} of {sum(len(r.rubric.criteria) for r in requests)}")
    with latency_server(args.median_s, args.sigma) as base_url:
        seconds = in_phases(base_url, requests, 128)
        report("128 threads, one phase", seconds, stats(base_url), 128)


if __name__ == "__main__":
    main()
