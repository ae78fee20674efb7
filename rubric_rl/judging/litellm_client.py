"""Any model of LiteLLM as a judge: `judge.llm.backend=litellm`, extra `litellm`.

LiteLLM finds the provider and its key by the model string and the environment.
One attempt each, as with other clients: its own retries are off.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from typing import Any

from rubric_rl.config.judge import EndpointConfig, LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.judging.chat import ChatClient, ChatError, ChatReply, ChatRequest, TokenLogProbs
from rubric_rl.judging.client import OpenAIChatClient, chat_error, read_key, request_fields
from rubric_rl.judging.model_table import traits_of
from rubric_rl.types import FailureCause

# Each provider has its own variables for keys; shorter values are no keys.
_KEY_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)
_LEAST_KEY_CHARS = 8
# Python warns of a record that never ran, as the last call's would if the loop ended now.
_LATE_RECORD_S = 0.02


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
    """A `ChatClient` over `litellm.acompletion`. An attempt takes at most `timeout_s`."""

    def __init__(self, llm: LlmJudgeConfig) -> None:
        """Raises ConfigError if LiteLLM is not installed, or a key's variable is not set."""
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
        self._where: dict[str, str] = {}
        if llm.base_url is not None:
            self._where["api_base"] = llm.base_url
        if llm.api_key_env is not None:
            self._where["api_key"] = read_key(llm.api_key_env, "judge.llm.api_key_env")

    def __repr__(self) -> str:
        return f"LiteLlmChatClient({self._llm.model!r})"

    async def close(self) -> None:
        """LiteLLM keeps its connections for the process, and its record of a call runs late."""
        await asyncio.sleep(_LATE_RECORD_S)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatClient.complete`."""
        fields = request_fields(request, self._llm, self._traits)
        try:
            async with asyncio.timeout(self._llm.timeout_s):
                answer = await self._litellm.acompletion(**fields, **self._where, num_retries=0)
            return _reply(answer)
        except TimeoutError:
            message = f"no reply from {self._llm.model} in {self._llm.timeout_s:g} s"
            raise ChatError(FailureCause.TIMEOUT, message) from None
        # The boundary of one call: most errors derive from openai's, but LiteLLM is the code
        # of a hundred providers, and what fails there has failed for this call alone.
        except Exception as err:
            status = getattr(err, "status_code", None)
            headers = getattr(err, "litellm_response_headers", None) or {}
            raise chat_error(err, status, headers, self._secrets()) from None

    def _secrets(self) -> list[str]:
        """The key, and whatever of the environment looks like one; the longest first."""
        values = [value for name, value in os.environ.items() if _KEY_NAMES.search(name)]
        secrets = [value for value in values if len(value) >= _LEAST_KEY_CHARS]
        if "api_key" in self._where:
            secrets.append(self._where["api_key"])
        return sorted(secrets, key=len, reverse=True)


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
