"""The check of a judge endpoint, before any model is loaded.

Reachable, authorised, serves the model, answers a chat completion, and takes a
JSON schema or not: whatever is wrong is said in words, with what to change.
"""

from __future__ import annotations

from dataclasses import dataclass

from rubric_rl.config.schema import LlmJudgeConfig
from rubric_rl.errors import EndpointError
from rubric_rl.judging.chat import ChatError
from rubric_rl.judging.client import OpenAIChatClient
from rubric_rl.judging.reply import reply_schema
from rubric_rl.types import Message

CHECK_TIMEOUT_S = 30.0
"""Longest wait for one answer in the check."""

_PROBE_TOKENS = 16
_MAX_NAMES_SHOWN = 10
# Answers of a server that has no model list: no such path, no such method, or a
# page of another kind.
_NO_LIST_STATUSES = (200, 404, 405)
# What servers answer to a request that they understand and don't want.
_UNWANTED_STATUSES = (400, 422)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReport:
    """What the check found out."""

    structured_output: bool
    """Replies can be constrained by a JSON schema."""


async def check_endpoint(
    config: LlmJudgeConfig, *, timeout_s: float = CHECK_TIMEOUT_S
) -> EndpointReport:
    """Try the endpoint with up to three small requests, none of them retried.

    Raises:
        ConfigError: the URL is no URL, or the variable with the key is not set.
        EndpointError: the endpoint can't be used; the message says why and what to change.
    """
    client = OpenAIChatClient(config.model_copy(update={"max_retries": 0, "timeout_s": timeout_s}))
    try:
        await _check_model(client, config)
        return EndpointReport(structured_output=await _check_completion(client, config))
    except ChatError as err:
        raise EndpointError(_in_words(err, config)) from None
    finally:
        await client.close()


async def _check_model(client: OpenAIChatClient, config: LlmJudgeConfig) -> None:
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
        f"the judge endpoint {config.base_url} doesn't serve judge.llm.model={config.model!r}; it "
        f"serves {names}{f' and {more} more' if more > 0 else ''}"
    )


async def _check_completion(client: OpenAIChatClient, config: LlmJudgeConfig) -> bool:
    """Whether replies can be constrained. A reply of any kind will do: it is cut short."""
    messages = [Message(role="user", content='Reply with {"nonce": "0", "verdicts": []}')]
    if config.structured_output != "none":
        try:
            # The judge's own schema: a server may take a simpler one and refuse this.
            schema = reply_schema(("c1",), "0")
            await client.complete(messages, schema=schema, max_tokens=_PROBE_TOKENS)
            return True
        except ChatError as err:
            if err.status not in _UNWANTED_STATUSES:
                raise
    await client.complete(messages, schema=None, max_tokens=_PROBE_TOKENS)
    if config.structured_output == "json_schema":
        raise EndpointError(
            f"the judge endpoint {config.base_url} refuses replies constrained by a JSON schema: "
            "set judge.llm.structured_output=auto or none"
        )
    return False


def _in_words(err: ChatError, config: LlmJudgeConfig) -> str:
    where = f"the judge endpoint {config.base_url}"
    match err.status:
        case None:
            return f"{where} can't be used ({err}): start the server or correct judge.llm.base_url"
        case 401 | 403:
            variable = config.api_key_env
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
