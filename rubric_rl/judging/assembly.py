"""The judge's parts put together, for a Ray worker as for the command line.

RubricJudge -> PooledCaller -> LeaseDesk -> Dispatcher (the cluster's, or one's own)
     |              `-> one ChatClient for each endpoint
     `-> VerdictCache
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from rubric_rl.config.judge import JudgeConfig
from rubric_rl.judging.asking import LlmJudge
from rubric_rl.judging.async_dispatcher import AsyncDispatcher
from rubric_rl.judging.cache import VerdictCache
from rubric_rl.judging.caller import PooledCaller
from rubric_rl.judging.dispatch import Dispatch
from rubric_rl.judging.endpoint import JudgeIdentity
from rubric_rl.judging.judge import RubricJudge
from rubric_rl.judging.lease_desk import LeaseDesk
from rubric_rl.judging.leases import Dispatcher
from rubric_rl.judging.litellm_client import build_clients
from rubric_rl.judging.model_table import prices_of
from rubric_rl.judging.templates import JudgeTemplates

# An attempt ends by itself after judge.llm.timeout_s; a lease without an outcome lasts this longer.
_LEASE_MARGIN_S = 30.0


def open_judge(
    config: JudgeConfig,
    identity: JudgeIdentity,
    *,
    client: str,
    account: str,
    dispatcher: Dispatcher,
    cache: VerdictCache | None,
    templates: JudgeTemplates,
) -> RubricJudge:
    """A judge that asks the configured model; it belongs to the running event loop.

    Args:
        config: With an LLM judge.
        identity: What the check of the endpoints found.
        client: Name that is unique among those that share the dispatcher.
        account: Whose money it is: the id of the run.
        dispatcher: Knows `client` already, or lets it join by itself.
        cache: None: every verdict is asked for.
        templates: Words of the judge's prompt.

    Raises:
        ConfigError: the variable with an endpoint's key is not set, or LiteLLM is not installed.
    """
    caller = open_caller(config, identity, client, account, dispatcher)
    return _judge(config, identity, caller, cache, templates)


@asynccontextmanager
async def own_judge(
    config: JudgeConfig,
    identity: JudgeIdentity | None,
    *,
    account: str,
    cache: VerdictCache | None,
    templates: JudgeTemplates,
) -> AsyncGenerator[RubricJudge]:
    """A judge with a budget of its own, in this process alone; closed at the end.

    `identity` is None for a judge of rules alone. Raises ConfigError as `open_judge` does.
    """
    if identity is None:
        yield RubricJudge(templates=templates)
        return
    async with own_caller(config, identity, account=account) as caller:
        yield _judge(config, identity, caller, cache, templates)


@asynccontextmanager
async def own_caller(
    config: JudgeConfig, identity: JudgeIdentity, *, account: str
) -> AsyncGenerator[PooledCaller]:
    """A way to the configured model with a budget of its own; closed at the end.

    Raises ConfigError as `open_judge` does.
    """
    dispatcher = _own_dispatcher(config, account)
    caller = open_caller(config, identity, account, account, dispatcher)
    try:
        yield caller
    finally:
        await caller.close()


def open_caller(
    config: JudgeConfig,
    identity: JudgeIdentity,
    client: str,
    account: str,
    dispatcher: Dispatcher,
) -> PooledCaller:
    llm = config.llm
    assert llm is not None, "a judge of rules alone calls nobody"
    return PooledCaller(
        LeaseDesk(dispatcher, client=client, account=account),
        build_clients(llm, llm.endpoints),
        llm,
        config.budget,
        served_model=identity.served_model,
        prices=prices_of(llm),
    )


def _judge(
    config: JudgeConfig,
    identity: JudgeIdentity,
    caller: PooledCaller,
    cache: VerdictCache | None,
    templates: JudgeTemplates,
) -> RubricJudge:
    llm = config.llm
    assert llm is not None
    judge = LlmJudge(
        caller=caller,
        config=llm,
        contract=identity.contract,
        served_model=identity.served_model,
    )
    return RubricJudge(judge, cache=cache, templates=templates)


def _own_dispatcher(config: JudgeConfig, client: str) -> AsyncDispatcher:
    """A budget of which `client` is the only member and the only account."""
    llm = config.llm
    assert llm is not None
    dispatcher = AsyncDispatcher(Dispatch(now=time.monotonic))
    dispatcher.join(
        client,
        budget=config.budget,
        health=config.health,
        account=client,
        endpoints=llm.endpoint_names,
        lease_timeout_s=llm.timeout_s + _LEASE_MARGIN_S,
    )
    return dispatcher
