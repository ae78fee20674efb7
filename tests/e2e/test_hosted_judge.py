"""A judge that the run hosts itself: vLLM's server in a Ray actor, asked through the whole pool."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.runtime.cluster import ray_cluster, reserve
from rubric_rl.runtime.judges import JudgeStart, start_judges, start_servers
from rubric_rl.runtime.placement import plan_placement
from rubric_rl.runtime.waiting import Waiting
from rubric_rl.types import (
    Criterion,
    Judgement,
    JudgeRequest,
    Message,
    PromptRecord,
    Rubric,
    Sample,
    VerdictValue,
)

# The model is tiny and often fails to give a verdict; of this many it gives some.
ADVICE = ("rest", "water", "honey", "a doctor's visit", "running", "sleep", "soup", "warmth")

OVERRIDES = [
    "experiment=quickstart_cpu",
    "run.dir=unused",
    "cluster.address=local",
    "judge=vllm",
    "judge.num_workers=1",
    "judge.llm.model=builtin:smollm2",
    "judge.llm.mode=each",
    "judge.llm.max_reply_tokens=200",
    "judge.llm.max_asks=3",
    "judge.llm.timeout_s=120",
    "judge.llm.hosted.dtype=float32",
    "judge.llm.hosted.max_model_tokens=2048",
    "judge.llm.hosted.kv_cache_gib=1",
    "judge.llm.hosted.enforce_eager=true",
    "judge.llm.hosted.cpus=0.2",
    "cluster.start_timeout_s=300",
]


def request() -> JudgeRequest:
    turn = Message(role="user", content="What helps against a cold?")
    record = PromptRecord(
        prompt_id="p", messages=(turn,), domain="health", source="test", row_hash="0"
    )
    sample = Sample(
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=(1,),
        completion_token_ids=(2,),
        log_probs=(0.0,),
        loss_mask=(1,),
        text="Rest and drink water.",
        finish_reason="stop",
        seed=0,
        policy_version=0,
    )
    criteria = tuple(
        Criterion(cid=f"c{number}", text=f"Advises {what}.", weight=1.0)
        for number, what in enumerate(ADVICE, start=1)
    )
    return JudgeRequest(
        record=record, rubric=Rubric(prompt_id="p", version=0, criteria=criteria), sample=sample
    )


async def judge_twice(config: Config, folder: Path) -> tuple[list[Judgement], float]:
    """The same sample twice, and the cache's size."""
    waiting = Waiting(show=lambda _: None, log_dir=str(folder))
    reserved = await reserve(plan_placement(config), waiting, 60)
    try:
        start = JudgeStart(
            run_id="test",
            identity=None,
            templates=JudgeTemplates.load(),
            cache_dir=folder / "verdicts",
        )
        servers = start_servers(config, reserved, str(folder))
        pool = await start_judges(config, start, reserved, servers, waiting)
        judgements = [await pool.judge(request()) for _ in range(2)]
        status = await pool.status()
        return judgements, status.cache_bytes
    finally:
        reserved.release()


@pytest.mark.timeout(600)
def test_a_hosted_judge_gives_verdicts_and_remembers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    config = compose(OVERRIDES)
    with ray_cluster(config.cluster):
        (first, second), cache_bytes = asyncio.run(judge_twice(config, tmp_path))
    assert first.judge_id == "builtin:smollm2"
    assert first.usage.calls >= 1
    assert first.usage.cost_usd == 0.0
    known = {v.cid: v.value for v in first.verdicts if v.value is not VerdictValue.UNKNOWN}
    assert known, [(verdict.cause, verdict.reason) for verdict in first.verdicts]
    remembered = {verdict.cid: verdict.value for verdict in second.verdicts if verdict.cached}
    assert remembered == known
    assert cache_bytes > 0
    log = (tmp_path / "judge_server_0.log").read_text(errors="replace")
    assert os.environ["RUBRIC_RL_HOSTED_JUDGE_KEY"] not in log
