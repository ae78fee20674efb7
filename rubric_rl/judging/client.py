"""Chat models behind an OpenAI-compatible endpoint.

One attempt at one endpoint: retries are the caller's, who knows of other
endpoints and of the budget. The library's exceptions end here: an attempt gives
a `ChatReply` or a `ChatError` with a cause. Keys come from the environment and
appear in no message; even a server that quotes the key back doesn't get it into one.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel, Field, ValidationError

from rubric_rl.config.schema import EndpointConfig, LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.judging.chat import ChatError, ChatReply, ChatRequest, TokenLogProbs
from rubric_rl.judging.model_table import ModelTraits, traits_of
from rubric_rl.types import FailureCause

# The library insists on a key; servers that need none ignore it.
_NO_KEY = "none"
# A host that drops packets should cost seconds, not the time allowed for a long reply.
_CONNECT_TIMEOUT_S = 10.0
_MAX_MESSAGE_CHARS = 300
# The budget says how many requests are out, not the connection pool.
_MAX_CONNECTIONS = 4096
_LONGEST_RETRY_AFTER_S = 3600.0


# ----------------------------------------------------------------------------
# The wire format: the part of the endpoint's answers that is used


class _Reply(BaseModel):
    content: str | None = None


class _Alternative(BaseModel):
    token: str
    logprob: float


class _Token(_Alternative):
    top_logprobs: list[_Alternative] = []


class _LogProbs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    message: _Reply
    finish_reason: str | None = None
    logprobs: _LogProbs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None
    model: str | None = None


class _ServedModel(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_ServedModel]


# ----------------------------------------------------------------------------
# The client


class _Answer(Protocol):
    """The HTTP library's response; which library that is depends on openai's version."""

    @property
    def status_code(self) -> int: ...


# Status of the answer to the attempt, so that a body that breaks off is told apart from
# a silent server.
_answered: ContextVar[int | None] = ContextVar("_answered", default=None)


async def _on_request(_request: object) -> None:
    _answered.set(None)


async def _on_response(response: _Answer) -> None:
    _answered.set(response.status_code)


class OpenAIChatClient:
    """A `ChatClient` over openai's asynchronous client. An attempt takes at most `timeout_s`."""

    def __init__(self, endpoint: EndpointConfig, llm: LlmJudgeConfig) -> None:
        """Reads the key; connects to nothing.

        Raises:
            ConfigError: the URL is no URL, or the variable with the key is not set.
        """
        _check_url(endpoint.base_url)
        self._endpoint = endpoint
        self._llm = llm
        self._traits = traits_of(llm.model)
        self._key = _read_key(endpoint.api_key_env)
        self._openai = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=self._key,
            max_retries=0,
            timeout=openai.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            http_client=openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [_on_request], "response": [_on_response]},
                limits=_limits(),
            ),
        )

    def __repr__(self) -> str:
        return f"OpenAIChatClient({self._llm.model!r} at {self._endpoint.base_url!r})"

    async def close(self) -> None:
        await self._openai.close()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatClient.complete`."""
        async with self._boundary():
            answer = await self._openai.chat.completions.with_raw_response.create(
                **request_fields(request, self._llm, self._traits)
            )
            return _reply(_Completion.model_validate_json(answer.http_response.content))

    async def served_models(self) -> list[str]:
        """Names of the models at the endpoint. Raises ChatError."""
        async with self._boundary():
            answer = await self._openai.models.with_raw_response.list()
            models = _ModelList.model_validate_json(answer.http_response.content)
        return [model.id for model in models.data]

    @asynccontextmanager
    async def _boundary(self) -> AsyncIterator[None]:
        """Bound the time and turn every failure into ChatError.

        `from None` keeps the library's own exceptions, which quote the server
        unredacted, out of tracebacks.
        """
        _answered.set(None)
        try:
            async with asyncio.timeout(self._llm.timeout_s):
                yield
        except TimeoutError:
            where = self._endpoint.base_url
            message = f"no reply from {where} in {self._llm.timeout_s:g} s"
            raise ChatError(FailureCause.TIMEOUT, message) from None
        except openai.APIError as err:
            raise self._failed(err) from None
        except ValidationError:
            message = f"{self._endpoint.base_url} gave an answer of another form than OpenAI's"
            raise ChatError(FailureCause.TRANSPORT, message, _answered.get()) from None

    def _failed(self, err: openai.APIError) -> ChatError:
        status = err.status_code if isinstance(err, openai.APIStatusError) else None
        retry_after = None
        if isinstance(err, openai.APIStatusError):
            retry_after = retry_after_s(err.response.headers, time.time())
        if status is not None:
            cause = _cause_of_status(status)
        elif isinstance(err, openai.APITimeoutError):
            cause = FailureCause.TIMEOUT
        else:
            cause = FailureCause.TRANSPORT
        text = f"{err}" if status else f"{err} {err.__cause__ or ''}".strip()
        if self._endpoint.api_key_env is not None:
            text = text.replace(self._key, "[key]")
        return ChatError(cause, text[:_MAX_MESSAGE_CHARS], status, retry_after)


def _limits() -> Any:
    """The HTTP library's own class; which library that is depends on openai's version."""
    return type(openai.DEFAULT_CONNECTION_LIMITS)(
        max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS
    )


def request_fields(
    request: ChatRequest, llm: LlmJudgeConfig, traits: ModelTraits
) -> dict[str, Any]:
    """The request in OpenAI's words, without what the model doesn't accept."""
    fields: dict[str, Any] = {
        "model": llm.model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        traits.max_tokens_parameter: request.max_tokens,
    }
    if traits.accepts_temperature:
        fields["temperature"] = llm.temperature
    if request.schema is not None:
        schema = {"name": "verdicts", "strict": True, "schema": request.schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.contract == "json_object":
        fields["response_format"] = {"type": "json_object"}
    if request.logprobs and traits.max_top_logprobs:
        fields |= {"logprobs": True, "top_logprobs": traits.max_top_logprobs}
    return fields


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a server asks to wait, in any of the forms in use; None without one.

    `now` is in seconds since 1970.
    """
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        elif "retry-after" in headers:
            seconds = _seconds(headers["retry-after"], now)
        else:
            return None
    except (ValueError, TypeError):
        return None
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_S)


def _seconds(value: str, now: float) -> float:
    """A number of seconds, or a date."""
    try:
        return float(value)
    except ValueError:
        return email.utils.parsedate_to_datetime(value).timestamp() - now


def _reply(completion: _Completion) -> ChatReply:
    choice, usage = completion.choices[0], completion.usage or _Usage()
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    return ChatReply(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "",
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        model=completion.model or "",
        tokens=tuple(
            TokenLogProbs(
                text=token.token,
                log_prob=token.logprob,
                top={top.token: top.logprob for top in token.top_logprobs},
            )
            for token in logprobs or ()
        ),
    )


def _cause_of_status(status: int) -> FailureCause:
    if status == 429:
        return FailureCause.RATE_LIMITED
    if status == 408:
        return FailureCause.TIMEOUT
    return FailureCause.REFUSED_REQUEST if 400 <= status < 500 else FailureCause.TRANSPORT


def _check_url(base_url: str) -> None:
    """Catch the host or port that the HTTP library would trip over in the middle of a run."""
    try:
        url = urlsplit(base_url)
        usable = bool(url.hostname) and url.port != 0 and not re.search(r"\s", base_url)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"judge.llm.base_url={base_url!r} has no usable host or port: give an address like "
            "http://localhost:8000/v1"
        )


def _read_key(variable: str | None) -> str:
    if variable is None:
        return _NO_KEY
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            f"judge.llm.api_key_env={variable!r}, but that environment variable is not set: export "
            "it, or set judge.llm.api_key_env=null if the endpoint needs no key"
        )
    # A header can't carry anything else, and the HTTP library would quote the key to say so.
    if not all("!" <= char <= "~" for char in key):
        raise ConfigError(
            f"the environment variable {variable!r} holds a space, a line break or another "
            "character that a key can't have: export the bare key"
        )
    return key
