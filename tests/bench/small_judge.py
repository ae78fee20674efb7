"""A real small judge for benchmarks: vLLM's server with the packaged SmolLM2, on this machine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rubric_rl.config.judge import HostedJudgeConfig, JudgeBudgetConfig, JudgeConfig
from rubric_rl.data.small_model import prepare_small_model
from rubric_rl.judging.assembly import open_judge
from rubric_rl.judging.async_dispatcher import AsyncDispatcher
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.endpoint import check_judge
from rubric_rl.judging.hosted import KEY_ENV, ServerSpec, VllmServer
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.runtime.process import free_port
from rubric_rl.types import Judgement, JudgeRequest, Message, PromptRecord, Rubric, Sample

CONTEXT = 8192


@contextmanager
def small_judge_server() -> Iterator[str]:
    """The server's address; ends with the block."""
    os.environ[KEY_ENV] = "bench"
    spec = ServerSpec(
        model_path=str(prepare_small_model(None)),
        served_name="smollm2",
        hosted=HostedJudgeConfig(
            dtype="float32", max_model_tokens=CONTEXT, max_concurrent=32, enforce_eager=True
        ),
        device="cpu",
        host="127.0.0.1",
        port=free_port(),
        num_threads=os.cpu_count() or 1,
    )
    sys.stdout.flush()
    server = VllmServer(spec, os.environ[KEY_ENV])
    try:
        yield server.wait(300.0)
    finally:
        server.stop()


def judge_config(base_url: str, **llm: object) -> JudgeConfig:
    """A config for the small judge; replies are short, since it rambles."""
    fields = {
        "base_url": base_url,
        "model": "smollm2",
        "api_key_env": KEY_ENV,
        "timeout_s": 600.0,
        "max_retries": 0,
    }
    budget = JudgeBudgetConfig(max_concurrency=32, deadline_s=3600.0)
    return JudgeConfig.model_validate({"llm": fields | llm, "budget": budget.model_dump()})


def judge_all(config: JudgeConfig, requests: Sequence[JudgeRequest]) -> list[Judgement]:
    """All requests at once through the judge's whole stack, without Ray."""
    return asyncio.run(_judge_all(config, requests))


async def _judge_all(config: JudgeConfig, requests: Sequence[JudgeRequest]) -> list[Judgement]:
    llm = config.llm
    assert llm is not None
    dispatcher = AsyncDispatcher(Dispatch(now=asyncio.get_running_loop().time))
    dispatcher.join(
        "bench",
        budget=config.budget,
        health=config.health,
        account="bench",
        endpoints=llm.endpoint_names,
        lease_timeout_s=llm.timeout_s + 30.0,
    )
    judge = open_judge(
        config,
        await check_judge(llm, timeout_s=120.0),
        client="bench",
        account="bench",
        dispatcher=dispatcher,
        cache=None,
        templates=JudgeTemplates.load(),
    )
    return list(await asyncio.gather(*(judge.judge(request) for request in requests)))


def request_of(rubric: Rubric, question: str, answer: str, index: int = 0) -> JudgeRequest:
    turn = Message(role="user", content=question)
    record = PromptRecord(
        prompt_id=rubric.prompt_id, messages=(turn,), domain="health", source="bench", row_hash="0"
    )
    sample = Sample(
        prompt_id=rubric.prompt_id,
        sample_index=index,
        prompt_token_ids=(1,),
        completion_token_ids=(2,),
        log_probs=(0.0,),
        loss_mask=(1,),
        text=answer,
        finish_reason="stop",
        seed=0,
        policy_version=0,
    )
    return JudgeRequest(record=record, rubric=rubric, sample=sample)
