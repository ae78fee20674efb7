"""Chat models behind an OpenAI-compatible endpoint.

The library's exceptions end here: a call gives a `ChatReply` or a `ChatError`
with a cause. Keys come from the environment and appear in no message; even a
server that quotes the key back doesn't get it into one.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Protocol, cast
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletionMessageParam
from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import BaseModel, Field, ValidationError

from rubric_rl.config.schema import LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.judging.chat import ChatError, ChatReply, JsonSchema
from rubric_rl.types import FailureCause, Message

# The library insists on a key; servers that need none ignore it.
_NO_KEY = "none"
# A host that drops packets should cost seconds, not the time allowed for a long reply.
_CONNECT_TIMEOUT_S = 10.0
_MAX_MESSAGE_CHARS = 300


# ----------------------------------------------------------------------------
# The wire format: the part of the endpoint's answers that is used


class _Reply(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Reply
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


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


# Status of the latest attempt's answer while the library waits to try again, so
# that running out of time under a rate limit is told apart from a silent server.
_answered: ContextVar[int | None] = ContextVar("_answered", default=None)


async def _on_request(_request: object) -> None:
    _answered.set(None)


async def _on_response(response: _Answer) -> None:
    _answered.set(response.status_code)


class OpenAIChatClient:
    """A `ChatClient` over openai's asynchronous client.

    One call takes at most `timeout_s`, retries included. The library retries 429,
    5xx and lost connections with growing waits, and honours Retry-After.
    """

    def __init__(self, config: LlmJudgeConfig) -> None:
        """Reads the key; connects to nothing.

        Raises:
            ConfigError: the URL is no URL, or the variable with the key is not set.
        """
        _check_url(config.base_url)
        self._config = config
        self._key = _read_key(config.api_key_env)
        self._openai = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=self._key,
            max_retries=config.max_retries,
            timeout=openai.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            http_client=openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [_on_request], "response": [_on_response]}
            ),
        )

    def __repr__(self) -> str:
        return f"OpenAIChatClient({self._config.model!r} at {self._config.base_url!r})"

    async def close(self) -> None:
        await self._openai.close()

    async def complete(
        self, messages: Sequence[Message], *, schema: JsonSchema | None, max_tokens: int
    ) -> ChatReply:
        """See `ChatClient.complete`."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        async with self._boundary():
            answer = await self._openai.chat.completions.with_raw_response.create(
                model=self._config.model,
                messages=cast(list[ChatCompletionMessageParam], turns),
                temperature=self._config.temperature,
                max_tokens=max_tokens,
                response_format=openai.omit if schema is None else _response_format(schema),
            )
            completion = _Completion.model_validate_json(answer.http_response.content)
        choice, usage = completion.choices[0], completion.usage or _Usage()
        return ChatReply(
            text=choice.message.content or "",
            finish_reason=choice.finish_reason or "",
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )

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
            async with asyncio.timeout(self._config.timeout_s):
                yield
        except TimeoutError:
            raise self._out_of_time() from None
        except openai.APIError as err:
            raise self._failed(err) from None
        except ValidationError:
            message = f"{self._config.base_url} gave an answer of another form than OpenAI's"
            raise ChatError(FailureCause.TRANSPORT, message, _answered.get()) from None

    def _out_of_time(self) -> ChatError:
        status = _answered.get()
        message = f"no reply from {self._config.base_url} in {self._config.timeout_s:g} s"
        if status is None or status < 400:
            return ChatError(FailureCause.TIMEOUT, message)
        return ChatError(_cause_of_status(status), f"{message}: it kept answering {status}", status)

    def _failed(self, err: openai.APIError) -> ChatError:
        status = err.status_code if isinstance(err, openai.APIStatusError) else None
        if status is not None:
            cause = _cause_of_status(status)
        elif isinstance(err, openai.APITimeoutError):
            cause = FailureCause.TIMEOUT
        else:
            cause = FailureCause.TRANSPORT
        text = f"{err}" if status else f"{err} {err.__cause__ or ''}".strip()
        if self._config.api_key_env is not None:
            text = text.replace(self._key, "[key]")
        return ChatError(cause, text[:_MAX_MESSAGE_CHARS], status)


def _cause_of_status(status: int) -> FailureCause:
    if status == 429:
        return FailureCause.RATE_LIMITED
    if status == 408:
        return FailureCause.TIMEOUT
    return FailureCause.REFUSED_REQUEST if 400 <= status < 500 else FailureCause.TRANSPORT


def _response_format(schema: JsonSchema) -> ResponseFormatJSONSchema:
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdicts", "strict": True, "schema": schema},
    }


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
