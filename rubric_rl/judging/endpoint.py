"""The check of a judge's endpoints, before any model is loaded.

Each is reachable, authorised, serves the model, answers a chat completion, and
all answer as the same model. Which contract all of them accept is found out by
trying. Whatever is wrong is said in words, with what to change, and of all
endpoints at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rubric_rl.config.judge import EndpointConfig, JudgeBudgetConfig, LlmJudgeConfig
from rubric_rl.errors import ConfigError, EndpointError
from rubric_rl.judging.chat import ChatClient, ChatError, ChatReply, ChatRequest
from rubric_rl.judging.client import OpenAIChatClient, setting_of
from rubric_rl.judging.litellm_client import build_clients
from rubric_rl.judging.model_table import prices_of, traits_of
from rubric_rl.judging.reply import reply_schema
from rubric_rl.types import JudgeContract, Message

CHECK_TIMEOUT_S = 30.0
"""Longest wait for one answer in the check."""

STRICTEST_FIRST: tuple[JudgeContract, ...] = ("structured_outputs", "json_object", "text")

_PROBE_TOKENS = 16
# OpenAI's models that think answer 400 if they may not finish thinking.
_THINKING_PROBE_TOKENS = 1024
_MAX_NAMES_SHOWN = 10
# Answers of a server that has no model list: no such path, no such method, or a
# page of another kind.
_NO_LIST_STATUSES = (200, 404, 405)
# What servers answer to a request that they understand and don't want.
_UNWANTED_STATUSES = (400, 422)
# With a system turn, as in all later requests: not every chat template takes one.
_PROBE = (
    Message(role="system", content="You reply in JSON."),
    Message(role="user", content='Reply with the JSON {"nonce": "0", "verdicts": []}'),
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeIdentity:
    """Who judges, as its endpoints say, and how it may be asked."""

    contract: JudgeContract
    """The strictest that all endpoints accept, or the one that was configured."""
    served_model: str
    """The model that replies name; empty if they name none."""
    logprobs: bool
    """Replies carry log-probs, as was asked for."""


async def check_judge(
    config: LlmJudgeConfig, *, timeout_s: float = CHECK_TIMEOUT_S
) -> JudgeIdentity:
    """Try every endpoint with up to three small requests, none of them retried.

    Raises:
        ConfigError: a URL is no URL, or the variable with a key is not set.
        EndpointError: endpoints can't be used; the message says which, why and what to change.
    """
    quick = config.model_copy(update={"timeout_s": timeout_s})
    clients = build_clients(quick, quick.endpoints)
    by_name = {endpoint.base_url: endpoint for endpoint in quick.endpoints}
    endpoints = [_Endpoint(name, c, by_name.get(name), quick) for name, c in clients.items()]
    try:
        await _together(endpoint.check_model() for endpoint in endpoints)
        contract, replies = await _strictest(endpoints, quick)
    finally:
        for client in clients.values():
            await client.close()
    served = _served_model(replies, quick)
    _check_logprobs(replies, quick)
    return JudgeIdentity(contract=contract, served_model=served, logprobs=config.logprobs)


def check_price(config: LlmJudgeConfig, budget: JudgeBudgetConfig) -> None:
    """Raise ConfigError if money is limited and nobody knows what the judge costs."""
    if budget.max_cost_usd is not None and prices_of(config) is None:
        raise ConfigError(
            f"judge.budget.max_cost_usd={budget.max_cost_usd:g}, but the price of judge.llm.model="
            f"{config.model!r} is not known: set judge.llm.usd_per_million_prompt_tokens and "
            "judge.llm.usd_per_million_completion_tokens"
        )


async def _together(checks: Iterable[Awaitable[_T]]) -> list[_T]:
    """Results in the order of `checks`, or one EndpointError with every fault that they found."""
    results = await asyncio.gather(*checks, return_exceptions=True)
    faults = [result for result in results if isinstance(result, BaseException)]
    for fault in faults:
        if not isinstance(fault, EndpointError):
            raise fault
    if faults:
        raise EndpointError("\n".join(str(fault) for fault in faults))
    return [result for result in results if not isinstance(result, BaseException)]


# ----------------------------------------------------------------------------
# One endpoint


@dataclass(frozen=True, slots=True)
class _Unwanted:
    """The answer of a server that takes no request under some contract."""

    error: ChatError


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One endpoint under test. Its methods raise EndpointError if it can't be used."""

    name: str
    client: ChatClient
    address: EndpointConfig | None
    """None for a model of LiteLLM."""
    config: LlmJudgeConfig

    async def check_model(self) -> None:
        """See that it serves the model, if it lists what it serves."""
        if not isinstance(self.client, OpenAIChatClient):
            return
        try:
            served = sorted(await self.client.served_models())
        except ChatError as err:
            if err.status in _NO_LIST_STATUSES:
                return
            raise EndpointError(self.in_words(err)) from None
        if self.config.model in served:
            return
        names = ", ".join(repr(name) for name in served[:_MAX_NAMES_SHOWN]) or "no model"
        more = len(served) - _MAX_NAMES_SHOWN
        raise EndpointError(
            f"the judge endpoint {self.name} doesn't serve judge.llm.model={self.config.model!r}; "
            f"it serves {names}{f' and {more} more' if more > 0 else ''}"
        )

    async def ask(self, contract: JudgeContract) -> ChatReply | _Unwanted:
        """Make a small request under `contract`."""
        try:
            return await self.client.complete(_probe(contract, self.config))
        except ChatError as err:
            if err.status in _UNWANTED_STATUSES:
                return _Unwanted(err)
            raise EndpointError(self.in_words(err)) from None

    def in_words(self, err: ChatError) -> str:
        """What is wrong and what to change."""
        where, model = f"the judge endpoint {self.name}", self.config.model
        if self.address is None:
            return f"{where} failed a test request ({err}): correct judge.llm.model={model!r}"
        url = setting_of(self.address, self.config, "base_url")
        match err.status:
            case None:
                return f"{where} can't be used ({err}): start the server or correct {url}"
            case 401 | 403:
                return f"{where} doesn't authorise the request (HTTP {err.status}): {self._key()}"
            case 404:
                return (
                    f"{where} has no chat completions for judge.llm.model={model!r} ({err}): "
                    f"correct the model, or {url}, which usually ends in /v1"
                )
            case 429:
                return f"{where} is over its rate limit or out of quota ({err}): try again later"
            case 400 | 422:
                return (
                    f"{where} refuses a plain request to judge.llm.model={model!r} ({err}): take "
                    "a chat model"
                )
            case _:
                return f"{where} failed a test request ({err}): look into the server's log"

    def _key(self) -> str:
        assert self.address is not None
        if self.address.api_key_env is not None:
            return f"put a valid key into the environment variable {self.address.api_key_env}"
        setting = setting_of(self.address, self.config, "api_key_env")
        return f"set {setting} to the name of the environment variable with your key"


def _probe(contract: JudgeContract, config: LlmJudgeConfig) -> ChatRequest:
    # The judge's own schema: a server may take a simpler one and refuse this.
    schema = reply_schema(("c1",)) if contract == "structured_outputs" else None
    thinking = traits_of(config.model).thinking
    tokens = _THINKING_PROBE_TOKENS if thinking else _PROBE_TOKENS
    return ChatRequest(
        messages=_PROBE,
        contract=contract,
        schema=schema,
        max_tokens=min(tokens, config.max_reply_tokens),
        logprobs=config.logprobs,
    )


# ----------------------------------------------------------------------------
# All endpoints together


async def _strictest(
    endpoints: Sequence[_Endpoint], config: LlmJudgeConfig
) -> tuple[JudgeContract, dict[str, ChatReply]]:
    """The strictest contract that all accept, and each one's reply, cut short: any will do.

    Each contract is tried with all of them. One that takes schemas need not take the
    looser JSON.
    """
    known = traits_of(config.model).contracts
    wanted: list[JudgeContract] = [c for c in STRICTEST_FIRST if c in known]
    if config.contract != "auto":
        wanted = [config.contract]
    refused: list[tuple[_Endpoint, ChatError]] = []
    for contract in wanted:
        answers = await _together(endpoint.ask(contract) for endpoint in endpoints)
        pairs = list(zip(endpoints, answers, strict=True))
        refused = [(e, a.error) for e, a in pairs if isinstance(a, _Unwanted)]
        if not refused:
            return contract, {e.name: a for e, a in pairs if isinstance(a, ChatReply)}
    if config.contract in ("auto", "text"):
        raise EndpointError("\n".join(endpoint.in_words(err) for endpoint, err in refused))
    names = "; ".join(f"{endpoint.name} ({err})" for endpoint, err in refused)
    raise EndpointError(
        f"judge.llm.contract={config.contract} is refused by the judge endpoint {names}: set "
        "judge.llm.contract=auto, which takes the strictest that is accepted"
    )


def _served_model(replies: dict[str, ChatReply], config: LlmJudgeConfig) -> str:
    """The model that all replies name; empty if they name none. Raises EndpointError."""
    served = {reply.model for reply in replies.values() if reply.model}
    answers = "; ".join(
        f"{name} answers as {reply.model!r}" if reply.model else f"{name} names no model"
        for name, reply in replies.items()
    )
    if len(served) > 1:
        raise EndpointError(
            f"the judge's endpoints serve different models: {answers}. One judge is one model: "
            "take the others out of judge.llm.extra_endpoints"
        )
    wanted = config.served_model
    if wanted is not None and {reply.model for reply in replies.values()} != {wanted}:
        raise EndpointError(
            f"judge.llm.served_model={wanted!r}, but {answers}: serve that model, or correct the "
            "setting"
        )
    return next(iter(served), "")


def _check_logprobs(replies: dict[str, ChatReply], config: LlmJudgeConfig) -> None:
    silent = [name for name, reply in replies.items() if not reply.tokens]
    if not config.logprobs or not silent:
        return
    if not traits_of(config.model).max_top_logprobs:
        raise EndpointError(
            f"judge.llm.logprobs=true, but judge.llm.model={config.model!r} has no log-probs: set "
            "judge.llm.logprobs=false, or take another model"
        )
    raise EndpointError(
        f"judge.llm.logprobs=true, but {', '.join(silent)} returned no log-probs: set "
        "judge.llm.logprobs=false, or turn them on at the server"
    )
