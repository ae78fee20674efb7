"""LiteLLM as a client: against a local endpoint where it is installed, in words where not."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest

from rubric_rl.config.schema import LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.judging.chat import ChatError, ChatReply, ChatRequest
from rubric_rl.judging.endpoint import check_judge
from rubric_rl.judging.litellm_client import LiteLlmChatClient, build_clients
from rubric_rl.types import FailureCause, Message

IS_INSTALLED = importlib.util.find_spec("litellm") is not None
needs_litellm = pytest.mark.skipif(not IS_INSTALLED, reason="the extra litellm is not installed")
KEY = "sk-very-secret-0123456789"
REQUEST = ChatRequest(
    messages=(Message(role="user", content="hi"),), contract="text", schema=None, max_tokens=7
)


def config(endpoint, **values: object) -> LlmJudgeConfig:
    fields = {
        "backend": "litellm",
        "model": "openai/judge-1",
        "base_url": endpoint.base_url,
        "api_key_env": "MY_JUDGE_KEY",
        "timeout_s": 10.0,
    }
    return LlmJudgeConfig.model_validate(fields | values)


def complete(llm: LlmJudgeConfig) -> ChatReply:
    return asyncio.run(LiteLlmChatClient(llm).complete(REQUEST))


@pytest.mark.skipif(IS_INSTALLED, reason="it is installed")
def test_a_missing_litellm_says_what_to_install(endpoint) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'rubric-rl\[litellm\]'"):
        LiteLlmChatClient(config(endpoint))


@needs_litellm
def test_a_model_string_is_answered_with_tokens_and_name(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.key = KEY
    endpoint.say("hello", "length")
    reply = complete(config(endpoint))
    assert (reply.text, reply.finish_reason) == ("hello", "length")
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 10)
    assert endpoint.chats[0]["model"] == "judge-1"
    assert len(endpoint.chats) == 1


@needs_litellm
@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (429, FailureCause.RATE_LIMITED),
        (500, FailureCause.TRANSPORT),
        (400, FailureCause.REFUSED_REQUEST),
    ],
)
def test_a_failure_has_its_cause_and_is_not_retried(endpoint, monkeypatch, status, cause) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.fail(status, '{"error": {"message": "no"}}')
    with pytest.raises(ChatError) as caught:
        complete(config(endpoint))
    assert caught.value.cause is cause
    assert len(endpoint.chats) == 1


@needs_litellm
def test_the_key_is_in_no_message(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.key = "another key"
    with pytest.raises(ChatError) as caught:
        complete(config(endpoint))
    assert KEY not in str(caught.value)


@needs_litellm
def test_a_server_that_hangs_is_a_timeout(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.hang()
    with pytest.raises(ChatError) as caught:
        complete(config(endpoint, timeout_s=0.5))
    assert caught.value.cause is FailureCause.TIMEOUT


@needs_litellm
def test_the_check_before_a_run_works_as_with_other_endpoints(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    identity = asyncio.run(check_judge(config(endpoint)))
    assert identity.contract == "structured_outputs"
    assert list(build_clients(config(endpoint), ())) == ["litellm:openai/judge-1"]
