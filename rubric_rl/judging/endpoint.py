"""The check of a judge's endpoints, before any model is loaded.

Each is reachable, authorised, serves the model, answers a chat completion, and
all answer as the same model. Which contract all of them accept is found out by
trying. Whatever is wrong is said in words, with what to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_rl.config.schema import EndpointConfig, JudgeBudgetConfig, LlmJudgeConfig
from rubric_rl.errors import ConfigError, EndpointError
from rubric_rl.judging.chat import ChatClient, ChatError, ChatReply, ChatRequest
from rubric_rl.judging.client import OpenAIChatClient
from rubric_rl.judging.model_table import prices_of, traits_of
from rubric_rl.judging.reply import reply_schema
from rubric_rl.types import JudgeContract, Message

CHECK_TIMEOUT_S = 30.0
"""Longest wait for one answer in the check."""

STRICTEST_FIRST: tuple[JudgeContract, ...] = ("structured_outputs", "json_object", "text")

_PROBE_TOKENS = 16
_MAX_NAMES_SHOWN = 10
# Answers of a server that has no model list: no such path, no such method, or a
# page of another kind.
_NO_LIST_STATUSES = (200, 404, 405)
# What servers answer to a request that they understand and don't want.
_UNWANTED_STATUSES = (400, 422)
_PROBE = Message(role="user", content='Reply with the JSON {"nonce": "0", "verdicts": []}')


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeIdentity:
    """Who judges, as its endpoints say, and how it may be asked."""

    contract: JudgeContract
    """The strictest that all endpoints accept, or the one that was configured."""
    served_model: str
    """The model that replies name; empty if they name none."""
    logprobs: bool
    """Replies carry log-probs, as was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What one endpoint turned out to be."""

    name: str
    contract: JudgeContract
    served_model: str
    logprobs: bool


async def check_judge(
    config: LlmJudgeConfig, *, timeout_s: float = CHECK_TIMEOUT_S
) -> JudgeIdentity:
    """Try every endpoint with a few small requests, none of them retried.

    Raises:
        ConfigError: a URL is no URL, or the variable with a key is not set.
        EndpointError: an endpoint can't be used; the message says which, why and what to change.
    """
    quick = config.model_copy(update={"timeout_s": timeout_s})
    if config.backend == "litellm":
        from rubric_rl.judging.litellm_client import LiteLlmChatClient

        name = config.endpoint_names[0]
        found = [await _check_client(LiteLlmChatClient(quick), quick, name)]
    else:
        checks = [_check_endpoint(endpoint, quick) for endpoint in config.endpoints]
        found = list(await asyncio.gather(*checks))
    return _agreed(found, config)


def check_price(config: LlmJudgeConfig, budget: JudgeBudgetConfig) -> None:
    """Raise ConfigError if money is limited and nobody knows what the judge costs."""
    if budget.max_cost_usd is not None and prices_of(config) is None:
        raise ConfigError(
            f"judge.budget.max_cost_usd={budget.max_cost_usd:g}, but the price of judge.llm.model="
            f"{config.model!r} is not known: set judge.llm.usd_per_million_prompt_tokens and "
            "judge.llm.usd_per_million_completion_tokens"
        )


# ----------------------------------------------------------------------------
# One endpoint


async def _check_endpoint(endpoint: EndpointConfig, config: LlmJudgeConfig) -> _Found:
    client = OpenAIChatClient(endpoint, config)
    try:
        await _check_model(client, endpoint, config)
    except ChatError as err:
        await client.close()
        raise EndpointError(_in_words(err, endpoint, config)) from None
    except EndpointError:
        await client.close()
        raise
    return await _check_client(client, config, endpoint.base_url, endpoint)


async def _check_client(
    client: ChatClient,
    config: LlmJudgeConfig,
    name: str,
    endpoint: EndpointConfig | None = None,
) -> _Found:
    try:
        contract, reply = await _strictest(client, config, name)
    except ChatError as err:
        if endpoint is None:
            raise EndpointError(f"the judge {name} failed a test request: {err}") from None
        raise EndpointError(_in_words(err, endpoint, config)) from None
    finally:
        await client.close()
    return _Found(
        name=name, contract=contract, served_model=reply.model, logprobs=bool(reply.tokens)
    )


async def _check_model(
    client: OpenAIChatClient, endpoint: EndpointConfig, config: LlmJudgeConfig
) -> None:
    try:
        served = sorted(await client.served_models())
    except ChatError as err:
        if err.status in _NO_LIST_STATUSES:
            return
        raise
    if config.model in served:
        return
    names = ", ".join(repr(name) for name in served[:_MAX_NAMES_SHOWN]) or "no model"
    more = len(served) - _MAX_NAMES_SHOWN
    raise EndpointError(
        f"the judge endpoint {endpoint.base_url} doesn't serve judge.llm.model={config.model!r}; "
        f"it serves {names}{f' and {more} more' if more > 0 else ''}"
    )


async def _strictest(
    client: ChatClient, config: LlmJudgeConfig, name: str
) -> tuple[JudgeContract, ChatReply]:
    """The strictest contract that is accepted, and the reply, which is cut short: any will do."""
    known = traits_of(config.model).contracts
    wanted: list[JudgeContract] = [c for c in STRICTEST_FIRST if c in known]
    if config.contract != "auto":
        wanted = [config.contract]
    refused: ChatError | None = None
    for contract in wanted:
        try:
            return contract, await client.complete(_probe(contract, config))
        except ChatError as err:
            if err.status not in _UNWANTED_STATUSES:
                raise
            refused = err
    assert refused is not None
    if config.contract == "auto":
        raise refused
    raise EndpointError(
        f"the judge endpoint {name} refuses judge.llm.contract={config.contract} ({refused}): set "
        "judge.llm.contract=auto, or json_object or text"
    )


def _probe(contract: JudgeContract, config: LlmJudgeConfig) -> ChatRequest:
    # The judge's own schema: a server may take a simpler one and refuse this.
    schema = reply_schema(("c1",), "0") if contract == "structured_outputs" else None
    return ChatRequest(
        messages=(_PROBE,),
        contract=contract,
        schema=schema,
        max_tokens=min(_PROBE_TOKENS, config.max_reply_tokens),
        logprobs=config.logprobs,
    )


# ----------------------------------------------------------------------------
# All endpoints together


def _agreed(found: Sequence[_Found], config: LlmJudgeConfig) -> JudgeIdentity:
    served = {f.served_model for f in found if f.served_model}
    if len(served) > 1:
        names = "; ".join(f"{f.name} answers as {f.served_model!r}" for f in found)
        raise EndpointError(
            f"the judge's endpoints serve different models: {names}. One judge is one model: take "
            "the others out of judge.llm.extra_endpoints"
        )
    model = next(iter(served), "")
    if config.served_model is not None and model != config.served_model:
        raise EndpointError(
            f"the judge answers as {model!r}, not as judge.llm.served_model="
            f"{config.served_model!r}: serve that model, or correct the setting"
        )
    silent = [f.name for f in found if config.logprobs and not f.logprobs]
    if silent:
        raise EndpointError(
            f"judge.llm.logprobs=true, but {', '.join(silent)} returned no log-probs: set "
            "judge.llm.logprobs=false, or turn them on at the server"
        )
    loosest = max(found, key=lambda f: STRICTEST_FIRST.index(f.contract)).contract
    return JudgeIdentity(contract=loosest, served_model=model, logprobs=config.logprobs)


def _in_words(err: ChatError, endpoint: EndpointConfig, config: LlmJudgeConfig) -> str:
    where = f"the judge endpoint {endpoint.base_url}"
    match err.status:
        case None:
            return f"{where} can't be used ({err}): start the server or correct judge.llm.base_url"
        case 401 | 403:
            variable = endpoint.api_key_env
            advice = (
                "set judge.llm.api_key_env to the name of the environment variable with your key"
                if variable is None
                else f"put a valid key into the environment variable {variable}"
            )
            return f"{where} doesn't authorise the request (HTTP {err.status}): {advice}"
        case 404:
            return (
                f"{where} has no chat completions for judge.llm.model={config.model!r} ({err}): "
                "correct the model, or judge.llm.base_url, which usually ends in /v1"
            )
        case 429:
            return f"{where} is over its rate limit or out of quota ({err}): try again later"
        case _:
            return f"{where} failed a test request ({err}): look into the server's log"
