"""LiteLLM as a client: against a local endpoint where it is installed, in words where not."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import subprocess
import sys
import traceback
from dataclasses import replace

import pytest

from rubric_rl.config.judge import LlmJudgeConfig
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


def complete(llm: LlmJudgeConfig, request: ChatRequest = REQUEST) -> ChatReply:
    async def call() -> ChatReply:
        client = LiteLlmChatClient(llm)
        try:
            return await client.complete(request)
        finally:
            await client.close()

    return asyncio.run(call())


def error(llm: LlmJudgeConfig) -> ChatError:
    with pytest.raises(ChatError) as caught:
        complete(llm)
    return caught.value


# Runs in a Python of its own, in which nothing has imported it yet.
_WITHOUT_LITELLM = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name == "litellm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.errors import ConfigError
from rubric_rl.judging.litellm_client import build_clients

try:
    build_clients(LlmJudgeConfig(backend="litellm", model="openai/judge-1"), ())
except ConfigError as err:
    print(err)
"""


def test_a_missing_litellm_says_what_to_install() -> None:
    command = [sys.executable, "-c", _WITHOUT_LITELLM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "pip install 'rubric-rl[litellm]'" in done.stdout


@needs_litellm
def test_a_key_that_is_not_set_is_named_before_the_first_call(endpoint, monkeypatch) -> None:
    monkeypatch.delenv("MY_JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"judge\.llm\.api_key_env='MY_JUDGE_KEY'"):
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
        (503, FailureCause.TRANSPORT),
        (400, FailureCause.REFUSED_REQUEST),
        (401, FailureCause.REFUSED_REQUEST),
    ],
)
def test_a_failure_has_its_cause_and_is_not_retried(endpoint, monkeypatch, status, cause) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.fail(status, '{"error": {"message": "no"}}')
    err = error(config(endpoint))
    assert (err.cause, err.status) == (cause, status)
    assert len(endpoint.chats) == 1


@needs_litellm
def test_a_rate_limit_carries_the_wait_asked_for(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.fail(429, **{"retry-after-ms": "250"})
    assert error(config(endpoint)).retry_after_s == 0.25


@needs_litellm
@pytest.mark.parametrize("body", ["", "<html>", "{", '{"choices": []}'])
def test_an_answer_that_is_no_completion_is_a_transport_failure(
    endpoint, monkeypatch, body
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.fail(200, body)
    assert error(config(endpoint)).cause is FailureCause.TRANSPORT
    assert len(endpoint.chats) == 1


@needs_litellm
def test_a_connection_that_breaks_off_or_is_refused_is_a_transport_failure(
    endpoint, monkeypatch
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.reset()
    assert error(config(endpoint)).cause is FailureCause.TRANSPORT
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        assert error(config(endpoint, base_url=url)).cause is FailureCause.TRANSPORT


@needs_litellm
@pytest.mark.parametrize("variable", ["MY_JUDGE_KEY", "MY_JUDGE"])
def test_the_key_is_in_no_repr_message_traceback_or_log(
    endpoint, monkeypatch, caplog, variable
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(variable, KEY)
    endpoint.key = "another key"  # the server refuses ours and quotes it
    llm = config(endpoint, api_key_env=variable)
    err = error(llm)
    assert "[key]" in str(err)
    shown = [repr(err), *traceback.format_exception(err), caplog.text, repr(LiteLlmChatClient(llm))]
    assert not [text for text in shown if KEY in text]


@needs_litellm
def test_a_key_of_another_provider_is_in_no_message_either(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    monkeypatch.setenv("OTHER_APIKEY", "other-secret-98765")
    endpoint.fail(400, '{"error": {"message": "you sent other-secret-98765"}}')
    assert "other-secret" not in str(error(config(endpoint)))


@needs_litellm
def test_a_server_that_hangs_is_a_timeout(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.hang()
    assert error(config(endpoint, timeout_s=0.5)).cause is FailureCause.TIMEOUT


@needs_litellm
def test_log_probs_are_asked_for_and_read(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    top = [{"token": "met", "logprob": -0.1}, {"token": "un", "logprob": -2.5}]
    endpoint.tokens = [{"token": "met", "logprob": -0.1, "top_logprobs": top}]
    [token] = complete(config(endpoint), replace(REQUEST, logprobs=True)).tokens
    assert (token.text, token.top) == ("met", {"met": -0.1, "un": -2.5})


@needs_litellm
def test_the_check_before_a_run_works_as_with_other_endpoints(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    identity = asyncio.run(check_judge(config(endpoint)))
    assert identity.contract == "structured_outputs"
    assert list(build_clients(config(endpoint), ())) == ["litellm:openai/judge-1"]
