"""The cluster's judge budget as the driver sees it: the real actor, killed, restored, refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import ray
import ray.exceptions

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeConfig, LlmJudgeConfig
from rubric_rl.controller.interfaces import JudgePoolStatus
from rubric_rl.errors import EndpointError, RunFolderError, WorkerDiedError
from rubric_rl.judging.leases import Grants, LeaseRequest, Outcome
from rubric_rl.runtime.judge_budget import (
    NAMESPACE,
    Membership,
    RayDispatcher,
    budget_actor,
    budget_name,
    judge_membership,
)
from rubric_rl.runtime.judge_pool import BudgetAccount, RayJudgePool
from rubric_rl.runtime.judges import _refuse_wrong_judges

from .builders import run, until

ENDPOINTS = ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")


@pytest.fixture
def name(cluster: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a budget of the test's own, which ends with the test."""
    name = budget_name(request.node.name, ENDPOINTS)
    yield name
    ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def membership(client: str, *, max_cost_usd: float | None = None) -> Membership:
    llm = LlmJudgeConfig.model_validate(
        {
            "model": "judge",
            "base_url": ENDPOINTS[0],
            "extra_endpoints": [{"base_url": ENDPOINTS[1]}],
        }
    )
    budget = JudgeBudgetConfig(max_cost_usd=max_cost_usd)
    return judge_membership(JudgeConfig(llm=llm, budget=budget), client=client, account="run")


def pool_of(name: str, *, served_model: str = "judge-1") -> RayJudgePool:
    """A pool that judges nothing; only its account matters."""
    account = BudgetAccount(actor=partial(budget_actor, name), membership=membership("driver"))
    return RayJudgePool(
        {"judge 0": None},
        max_in_flight_per_worker=1,
        timeout_s=10.0,
        account=account,
        served_model=served_model,
    )


def request(request_id: int, cost_usd: float) -> LeaseRequest:
    return LeaseRequest(request_id=request_id, tokens=100, cost_usd=cost_usd, account="run")


async def spend(dispatcher: RayDispatcher, client: str, cost_usd: float) -> None:
    """One request that costs so much."""
    grants = await dispatcher.exchange(client, [], [request(1, cost_usd)])
    [lease] = grants.leases
    outcome = Outcome(lease_id=lease.lease_id, kind="ok", tokens=100, cost_usd=cost_usd)
    await dispatcher.exchange(client, [outcome], [])


async def kill_process(name: str) -> None:
    """End the actor's process as the kernel would; Ray starts it again."""
    actor = ray.get_actor(name, namespace=NAMESPACE)
    pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    await until(lambda: _pid(actor) not in (None, pid))


def _pid(actor: Any) -> int | None:
    try:
        return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=10)
    except ray.exceptions.RayActorError:
        return None


def test_the_account_shows_what_was_spent_and_the_endpoints(name: str) -> None:
    pool = pool_of(name)

    async def work() -> JudgePoolStatus:
        await spend(RayDispatcher(name, membership("worker")), "worker", 0.25)
        return await pool.status()

    status = run(work())
    assert status.spent_usd == 0.25
    assert (status.num_endpoints, status.num_endpoints_up, status.rate_limited) == (2, 2, 0)


def test_what_was_spent_survives_the_end_of_the_budgets_process(name: str) -> None:
    pool = pool_of(name)

    async def work() -> tuple[float, float]:
        await spend(RayDispatcher(name, membership("worker")), "worker", 0.25)
        before = await pool.status()
        await kill_process(name)
        after = await pool.status()
        return before.spent_usd, after.spent_usd

    assert run(work()) == (0.25, 0.25)


def test_a_worker_meets_a_budget_that_was_started_anew_and_joins_it_again(name: str) -> None:
    dispatcher = RayDispatcher(name, membership("worker"))

    async def work() -> float:
        await spend(dispatcher, "worker", 0.25)
        await kill_process(name)
        await spend(dispatcher, "worker", 0.5)
        return (await pool_of(name).status()).spent_usd

    assert run(work()) == 0.5  # what was spent before is the driver's to restore, see above


def test_a_resumed_run_goes_on_with_the_money_of_its_checkpoint(name: str) -> None:
    async def first() -> str:
        await spend(RayDispatcher(name, membership("worker")), "worker", 0.75)
        return (await pool_of(name).status()).limiter_state

    async def resumed(state: str) -> tuple[float, Grants]:
        pool = pool_of(name)
        await pool.restore(state)
        poor = RayDispatcher(name, membership("poor", max_cost_usd=1.0))
        return (
            (await pool.status()).spent_usd,
            await poor.exchange("poor", [], [request(1, 0.5)]),
        )

    state = run(first())
    ray.kill(ray.get_actor(name, namespace=NAMESPACE))  # the cluster is another one
    spent_usd, grants = run(resumed(state))
    assert spent_usd == 0.75
    assert grants.leases == ()
    assert [refusal.cause for refusal in grants.refusals] == ["budget"]


def test_a_run_is_not_resumed_with_another_judge(name: str) -> None:
    async def work() -> None:
        state = (await pool_of(name, served_model="judge-1").status()).limiter_state
        await pool_of(name, served_model="judge-2").restore(state)

    with pytest.raises(RunFolderError, match=r"'judge-1'.*'judge-2'.*another run\.dir"):
        run(work())


def test_a_budget_that_is_gone_for_good_is_a_dead_worker(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = budget_actor(name)
    ray.kill(gone)
    account = BudgetAccount(actor=lambda: gone, membership=membership("driver"))
    pool = RayJudgePool(
        {"judge 0": None}, max_in_flight_per_worker=1, timeout_s=10.0, account=account
    )
    monkeypatch.setattr("rubric_rl.runtime.judge_pool._STATUS_ATTEMPTS", 2)
    try:
        with pytest.raises(WorkerDiedError, match="budget's process can't be reached"):
            run(pool.status())
    finally:
        budget_actor(name)  # for the fixture to end


def test_workers_with_other_templates_are_refused() -> None:
    _refuse_wrong_judges({"judge 0": "aa", "judge 1": "aa"}, "aa")
    with pytest.raises(EndpointError, match=r"judge 1 would judge .*\(aa\).*same version"):
        _refuse_wrong_judges({"judge 0": "aa", "judge 1": "bb"}, "aa")
