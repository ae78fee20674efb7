"""Any model of LiteLLM as a judge: `judge.llm.backend=litellm`, extra `litellm`.

LiteLLM finds the provider and its key by the model string and the environment.
One attempt each, as with other clients: its own retries are off.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

from rubric_rl.config.schema import EndpointConfig, LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.judging.chat import ChatClient, ChatError, ChatReply, ChatRequest, TokenLogProbs
from rubric_rl.judging.client import OpenAIChatClient, request_fields, retry_after_s
from rubric_rl.judging.model_table import traits_of
from rubric_rl.types import FailureCause

_MAX_MESSAGE_CHARS = 300
_KEY_SUFFIXES = ("_KEY", "_TOKEN", "_SECRET")
_LEAST_KEY_CHARS = 8


def build_clients(
    llm: LlmJudgeConfig, endpoints: Sequence[EndpointConfig]
) -> dict[str, ChatClient]:
    """One client for each endpoint, by its name; see `LlmJudgeConfig.endpoint_names`.

    Raises:
        ConfigError: a URL is no URL, a key's variable is not set, or LiteLLM is not installed.
    """
    if llm.backend == "litellm":
        return {llm.endpoint_names[0]: LiteLlmChatClient(llm)}
    return {endpoint.base_url: OpenAIChatClient(endpoint, llm) for endpoint in endpoints}


class LiteLlmChatClient:
    """A `ChatClient` over `litellm.acompletion`."""

    def __init__(self, llm: LlmJudgeConfig) -> None:
        """Raises ConfigError if LiteLLM is not installed."""
        # Otherwise importing it fetches a price list over the network.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        try:
            import litellm  # pyright: ignore[reportMissingImports]
        except ImportError as err:
            raise ConfigError(
                "judge.llm.backend='litellm' needs the package litellm, which is not installed: "
                "pip install 'rubric-rl[litellm]', or set judge.llm.backend=openai"
            ) from err
        litellm.suppress_debug_info = True
        self._litellm: Any = litellm
        self._llm = llm
        self._traits = traits_of(llm.model)

    async def close(self) -> None:
        """LiteLLM keeps its connections for the process."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatClient.complete`."""
        fields = request_fields(request, self._llm, self._traits)
        if self._llm.base_url is not None:
            fields["api_base"] = self._llm.base_url
        if self._llm.api_key_env is not None:
            fields["api_key"] = os.environ[self._llm.api_key_env]
        try:
            async with asyncio.timeout(self._llm.timeout_s):
                answer = await self._litellm.acompletion(**fields, num_retries=0)
        except TimeoutError:
            message = f"no reply from {self._llm.model} in {self._llm.timeout_s:g} s"
            raise ChatError(FailureCause.TIMEOUT, message) from None
        # LiteLLM's errors derive from openai's, one for each provider's many ways to fail.
        except self._litellm.exceptions.openai.OpenAIError as err:
            raise _failed(err) from None
        return _reply(answer)


def _failed(err: Any) -> ChatError:
    status = getattr(err, "status_code", None)
    response = getattr(err, "response", None)
    retry_after = None if response is None else retry_after_s(response.headers, time.time())
    if status == 429:
        cause = FailureCause.RATE_LIMITED
    elif status == 408 or "Timeout" in type(err).__name__:
        cause = FailureCause.TIMEOUT
    elif status is not None and 400 <= status < 500:
        cause = FailureCause.REFUSED_REQUEST
    else:
        cause = FailureCause.TRANSPORT
    return ChatError(cause, _without_keys(str(err))[:_MAX_MESSAGE_CHARS], status, retry_after)


def _without_keys(text: str) -> str:
    """`text` without the value of any environment variable that looks like a key."""
    for name, value in os.environ.items():
        if name.endswith(_KEY_SUFFIXES) and len(value) >= _LEAST_KEY_CHARS:
            text = text.replace(value, "[key]")
    return text


def _reply(answer: Any) -> ChatReply:
    choice, usage = answer.choices[0], getattr(answer, "usage", None)
    logprobs = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    return ChatReply(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "",
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
        model=answer.model or "",
        tokens=tuple(
            TokenLogProbs(
                text=token.token,
                log_prob=token.logprob,
                top={top.token: top.logprob for top in token.top_logprobs or ()},
            )
            for token in logprobs
        ),
    )
