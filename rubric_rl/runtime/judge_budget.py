"""One judge budget for the cluster: an actor that all judge workers ask for leases.

It outlives the run that started it, so that runs which use the same judge at
the same time share its limits, and ends by itself when nobody has used it for a
while. Everything that it decides is in `judging.dispatch`; here are the actor
and the way to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
from ray.actor import exit_actor
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rubric_rl.config.judge import JudgeBudgetConfig, JudgeConfig, JudgeHealthConfig
from rubric_rl.errors import WorkerDiedError
from rubric_rl.judging.async_dispatcher import AsyncDispatcher
from rubric_rl.judging.dispatch import Dispatch, DispatchSnapshot
from rubric_rl.judging.leases import Grants, LeaseRequest, Outcome

NAMESPACE = "rubric_rl"

# An attempt ends by itself after judge.llm.timeout_s; a lease without an outcome lasts this longer.
_LEASE_MARGIN_S = 30.0
_IDLE_EXIT_S = 3600.0
_IDLE_CHECK_S = 60.0
# Exchanges of many workers wait inside the actor at the same time.
_MAX_CONCURRENT_CALLS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Who takes part in the budget, and under which limits."""

    client: str
    """Unique in the cluster."""
    account: str
    """Whose money it is: the id of the run."""
    budget: JudgeBudgetConfig
    health: JudgeHealthConfig
    endpoints: tuple[str, ...]
    lease_timeout_s: float
    """After so long without an outcome a lease is taken as lost."""


def budget_name(model: str, endpoints: Sequence[str]) -> str:
    """The name under which runs find their common budget: same model, same endpoints."""
    text = "\n".join([model, *sorted(endpoints)])
    return f"judge_budget:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def judge_membership(config: JudgeConfig, *, client: str, account: str) -> Membership:
    """The membership of one judge worker, or of a driver that only looks on."""
    llm = config.llm
    assert llm is not None, "rules need no budget"
    return Membership(
        client=client,
        account=account,
        budget=config.budget,
        health=config.health,
        endpoints=llm.endpoint_names,
        lease_timeout_s=llm.timeout_s + _LEASE_MARGIN_S,
    )


class JudgeBudget:
    """The actor. Started anew by Ray if its process dies; then each client joins again."""

    def __init__(self) -> None:
        self._dispatcher = AsyncDispatcher(Dispatch(now=time.monotonic))
        self._joined: set[str] = set()
        self._last_use = time.monotonic()
        self._idle_watch: asyncio.Task[None] | None = None

    async def join(self, membership: Membership) -> None:
        self._used()
        self._joined.add(membership.client)
        self._dispatcher.join(
            membership.client,
            budget=membership.budget,
            health=membership.health,
            account=membership.account,
            endpoints=membership.endpoints,
            lease_timeout_s=membership.lease_timeout_s,
        )

    async def exchange(
        self, membership: Membership, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        """See `Dispatcher.exchange`. A client that isn't known joins first."""
        if membership.client not in self._joined:
            await self.join(membership)
        self._used()
        return await self._dispatcher.exchange(membership.client, outcomes, wanted)

    async def snapshot(self, account: str) -> DispatchSnapshot:
        return self._dispatcher.snapshot(account)

    async def to_json(self, account: str) -> str:
        return self._dispatcher.to_json(account)

    async def restore(self, account: str, text: str) -> None:
        self._dispatcher.restore(account, text)

    def _used(self) -> None:
        self._last_use = time.monotonic()
        if self._idle_watch is None:
            self._idle_watch = asyncio.create_task(self._exit_when_idle())

    async def _exit_when_idle(self) -> None:
        while time.monotonic() - self._last_use < _IDLE_EXIT_S:
            await asyncio.sleep(_IDLE_CHECK_S)
        exit_actor()


def budget_actor(name: str) -> Any:
    """The cluster's budget of this name, started if it isn't there yet."""
    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(JudgeBudget)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=_MAX_CONCURRENT_CALLS,
            # On the node of whoever comes first, mostly the head: the least likely to leave.
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
        )
        .remote()
    )


class RayDispatcher:
    """A client's way to the cluster's budget; a `Dispatcher`."""

    def __init__(self, name: str, membership: Membership) -> None:
        self._name = name
        self._membership = membership
        self._actor = budget_actor(name)

    async def exchange(
        self, client: str, outcomes: Sequence[Outcome], wanted: Sequence[LeaseRequest]
    ) -> Grants:
        """See `Dispatcher.exchange`.

        Raises:
            WorkerDiedError: the actor is gone or being started again; try again.
        """
        assert client == self._membership.client
        try:
            return await self._actor.exchange.remote(self._membership, outcomes, wanted)
        except ray.exceptions.RayActorError as err:
            # The one that is known may have ended for want of use; another has its name then.
            self._actor = budget_actor(self._name)
            raise WorkerDiedError(f"the judge budget is not there: {err}") from err
