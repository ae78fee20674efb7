"""A run of its own that judges through the cluster's budget: a process for `test_shared_budget`.

python shared_budget_driver.py RAY_ADDRESS BASE_URL REQUESTS_PER_MINUTE NUM_SAMPLES RUN_ID LOG_DIR
"""

from __future__ import annotations

import asyncio
import json
import sys

import ray

from rubric_rl.config.judge import JudgeConfig
from rubric_rl.config.schema import ClusterConfig
from rubric_rl.judging.endpoint import JudgeIdentity
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.runtime.actors import JudgeSetup, JudgeWorker
from rubric_rl.runtime.cluster import ray_cluster
from rubric_rl.runtime.judge_budget import budget_name
from rubric_rl.runtime.judge_pool import RayJudgePool
from rubric_rl.types import (
    Criterion,
    JudgeRequest,
    Message,
    PromptRecord,
    Rubric,
    Sample,
    VerdictValue,
)


def request_of(run_id: str, index: int) -> JudgeRequest:
    turn = Message(role="user", content="What helps against a cold?")
    sample = Sample(
        prompt_id="p",
        sample_index=index,
        prompt_token_ids=(1,),
        completion_token_ids=(2,),
        log_probs=(0.0,),
        loss_mask=(1,),
        text=f"Answer {index} of {run_id}.",
        finish_reason="stop",
        seed=0,
        policy_version=0,
    )
    record = PromptRecord(
        prompt_id="p", messages=(turn,), domain="health", source="test", row_hash="0"
    )
    criteria = (Criterion(cid="c1", text="Advises rest.", weight=1.0),)
    rubric = Rubric(prompt_id="p", version=0, criteria=criteria)
    return JudgeRequest(record=record, rubric=rubric, sample=sample)


def judge_config(base_url: str, requests_per_minute: int) -> JudgeConfig:
    return JudgeConfig.model_validate(
        {
            "llm": {"base_url": base_url, "model": "judge"},
            "budget": {"requests_per_minute": requests_per_minute, "deadline_s": 300.0},
        }
    )


async def judge_all(config: JudgeConfig, run_id: str, num_samples: int, log_dir: str) -> int:
    """Verdicts that are known, one for each sample if all went well."""
    assert config.llm is not None
    setup = JudgeSetup(
        config=config,
        # The check of an endpoint is made before there are leases; here only leases count.
        identity=JudgeIdentity(contract="structured_outputs", served_model="judge", logprobs=False),
        templates=JudgeTemplates.load(),
        budget_name=budget_name(config.llm.model, config.llm.endpoint_names),
        account=run_id,
        cache_dir=None,
    )
    remote = ray.remote(JudgeWorker).options(num_cpus=0, max_concurrency=100)
    workers = {
        f"judge {i}": remote.remote(f"{log_dir}/{run_id}_{i}.log", setup, {}) for i in range(2)
    }
    pool = RayJudgePool(workers, max_in_flight_per_worker=64, timeout_s=300.0)
    requests = [request_of(run_id, index) for index in range(num_samples)]
    judgements = await asyncio.gather(*(pool.judge(request) for request in requests))
    return sum(v.value is not VerdictValue.UNKNOWN for j in judgements for v in j.verdicts)


def main() -> None:
    address, base_url, per_minute, num_samples, run_id, log_dir = sys.argv[1:]
    with ray_cluster(ClusterConfig(address=address)):
        config = judge_config(base_url, int(per_minute))
        known = asyncio.run(judge_all(config, run_id, int(num_samples), log_dir))
    print(json.dumps({"known": known}))


if __name__ == "__main__":
    main()
