"""The judge's parts put together, for a Ray worker as for the command line.

RubricJudge -> PooledCaller -> LeaseDesk -> Dispatcher (the cluster's, or one's own)
     |              `-> one ChatClient for each endpoint
     `-> VerdictCache
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

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
from rubric_rl.judging.limits import Account
from rubric_rl.judging.litellm_client import build_clients
from rubric_rl.judging.model_table import prices_of
from rubric_rl.judging.reward_model import RewardModelJudge, check_reward_model
from rubric_rl.judging.templates import JudgeTemplates

# An attempt ends by itself after judge.llm.timeout_s; a lease without an outcome lasts this longer.
_LEASE_MARGIN_S = 30.0


class OwnBudget:
    """What may be out and spent within this process, for whoever shares it.

    One dispatcher for each model with its endpoints, so that a judge and a proposer at the same
    place keep its limits together; the money of an account is one, wherever it is spent.
    """

    def __init__(self) -> None:
        self._dispatchers: dict[tuple[str, ...], AsyncDispatcher] = {}
        self._accounts: dict[str, Account] = {}

    def spent_usd(self, account: str) -> float:
        """What an account has spent so far."""
        return self._accounts[account].spent_usd if account in self._accounts else 0.0

    def join(self, config: JudgeConfig, client: str, account: str) -> AsyncDispatcher:
        """The dispatcher of the configured model, of which `client` is a member now."""
        llm = config.llm
        assert llm is not None
        key = (llm.model, *llm.endpoint_names)
        if key not in self._dispatchers:
            dispatch = Dispatch(now=time.monotonic, accounts=self._accounts)
            self._dispatchers[key] = AsyncDispatcher(dispatch)
        self._dispatchers[key].join(
            client,
            budget=config.budget,
            health=config.health,
            account=account,
            endpoints=llm.endpoint_names,
            lease_timeout_s=llm.timeout_s + _LEASE_MARGIN_S,
        )
        return self._dispatchers[key]


def judge_templates(config: JudgeConfig) -> JudgeTemplates:
    """The texts that the judge is asked with. For a reward model, which is asked in no words,
    their hash is its fingerprint: all workers must have the same one.

    Raises ConfigError and ModelError.
    """
    templates = JudgeTemplates.of(config.llm)
    if config.reward_model is None:
        return templates
    return replace(templates, template_hash=check_reward_model(config.reward_model))


def _own_device() -> Literal["cpu", "gpu"]:
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


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


OwnJudge = RubricJudge | RewardModelJudge


@asynccontextmanager
async def own_judge(
    config: JudgeConfig,
    identity: JudgeIdentity | None,
    *,
    account: str,
    cache: VerdictCache | None,
    templates: JudgeTemplates,
    budget: OwnBudget | None = None,
) -> AsyncGenerator[OwnJudge]:
    """A judge with a budget of its own, in this process alone; closed at the end.

    `identity` is None for a judge of rules alone and for a reward model, which runs on a GPU
    where there is one. `budget` is shared with others; None is one of its own. Raises
    ConfigError as `open_judge` does, and ModelError.
    """
    if config.reward_model is not None:
        yield RewardModelJudge.open(config.reward_model, _own_device())
        return
    if identity is None:
        yield RubricJudge(templates=templates)
        return
    async with own_caller(config, identity, account=account, budget=budget) as caller:
        yield _judge(config, identity, caller, cache, templates)


@asynccontextmanager
async def own_caller(
    config: JudgeConfig,
    identity: JudgeIdentity,
    *,
    account: str,
    budget: OwnBudget | None = None,
) -> AsyncGenerator[PooledCaller]:
    """A way to the configured model with a budget of its own; closed at the end.

    `budget` as for `own_judge`. Raises ConfigError as `open_judge` does.
    """
    client = secrets.token_hex(8)
    dispatcher = (budget or OwnBudget()).join(config, client, account)
    caller = open_caller(config, identity, client, account, dispatcher)
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
