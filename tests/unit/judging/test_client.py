from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import time
import traceback
from dataclasses import replace

import pytest

from rubric_rl.errors import ConfigError
from rubric_rl.judging.chat import ChatError, ChatReply, ChatRequest
from rubric_rl.judging.client import OpenAIChatClient, retry_after_s
from rubric_rl.types import FailureCause, Message

MESSAGES = (Message(role="system", content="rules"), Message(role="user", content="\u00e9 {x}"))
KEY = "sk-very-secret-0123456789"


def client_of(config) -> OpenAIChatClient:
    return OpenAIChatClient(config.endpoints[0], config)


def chat_request(contract="text", schema=None, logprobs=False) -> ChatRequest:
    return ChatRequest(
        messages=MESSAGES, contract=contract, schema=schema, max_tokens=7, logprobs=logprobs
    )


def complete(config, messages=MESSAGES, **request) -> ChatReply:
    async def call() -> ChatReply:
        client = client_of(config)
        try:
            return await client.complete(replace(chat_request(**request), messages=messages))
        finally:
            await client.close()

    return asyncio.run(call())


def error(config) -> ChatError:
    with pytest.raises(ChatError) as caught:
        complete(config)
    return caught.value


def test_a_reply_carries_text_finish_reason_and_tokens(endpoint, llm_config):
    endpoint.say("hello", "length")
    assert complete(llm_config()) == ChatReply(
        text="hello",
        finish_reason="length",
        prompt_tokens=100,
        completion_tokens=10,
        model="judge-1",
    )


def test_the_request_holds_model_messages_limits_and_no_format(endpoint, llm_config):
    complete(llm_config(temperature=0.5))
    assert endpoint.chats == [
        {
            "model": "judge-1",
            "messages": [
                {"role": "system", "content": "rules"},
                {"role": "user", "content": "\u00e9 {x}"},
            ],
            "temperature": 0.5,
            "max_tokens": 7,
        }
    ]


def test_a_schema_is_sent_as_response_format(endpoint, llm_config):
    complete(llm_config(), contract="structured_outputs", schema={"type": "object"})
    sent = endpoint.chats[0]["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"] == {"type": "object"}


def test_a_reply_without_content_is_an_empty_text(endpoint, llm_config):
    endpoint.say(None)
    assert complete(llm_config()).text == ""


def test_any_json_is_asked_for_by_the_contract_json_object(endpoint, llm_config):
    complete(llm_config(), contract="json_object")
    assert endpoint.chats[0]["response_format"] == {"type": "json_object"}


def test_a_model_that_thinks_is_sent_neither_temperature_nor_log_probs(endpoint, llm_config):
    complete(llm_config(model="o4-mini", temperature=0.7), logprobs=True)
    assert endpoint.chats[0].keys() == {"model", "messages", "max_completion_tokens"}


def test_log_probs_are_asked_for_and_read(endpoint, llm_config):
    top = [{"token": "met", "logprob": -0.1}, {"token": "un", "logprob": -2.5}]
    endpoint.tokens = [{"token": "met", "logprob": -0.1, "top_logprobs": top}]
    reply = complete(llm_config(), logprobs=True)
    assert (endpoint.chats[0]["logprobs"], endpoint.chats[0]["top_logprobs"]) == (True, 5)
    [token] = reply.tokens
    assert (token.text, token.top) == ("met", {"met": -0.1, "un": -2.5})


@pytest.mark.parametrize("model", ["google/gemma-2-9b-it", "o1-mini"])
def test_rules_go_before_the_question_where_a_system_turn_is_refused(endpoint, llm_config, model):
    complete(llm_config(model=model))
    assert endpoint.chats[0]["messages"] == [{"role": "user", "content": "rules\n\n\u00e9 {x}"}]


def test_half_a_character_in_an_answer_does_not_keep_it_from_being_judged(endpoint, llm_config):
    answer = Message(role="user", content="good \ud83d answer")  # half of a smiley
    assert complete(llm_config(), messages=(answer,)).text == "ok"
    assert endpoint.chats[0]["messages"][0]["content"] == "good ? answer"


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None, "total_tokens": 0}]
)
def test_a_reply_whose_tokens_were_not_counted_is_a_reply(endpoint, llm_config, usage):
    endpoint.usage, endpoint.served = usage, None
    reply = complete(llm_config())
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("ok", 0, 0)
    assert reply.model == ""


@pytest.mark.parametrize("token", [{}, {"top_logprobs": None}, {"top_logprobs": []}])
def test_log_probs_without_alternatives_are_read(endpoint, llm_config, token):
    endpoint.tokens = [{"token": "met", "logprob": -0.1, "bytes": [1], **token}]
    [read] = complete(llm_config(), logprobs=True).tokens
    assert (read.text, read.log_prob, read.top) == ("met", -0.1, {})


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (429, FailureCause.RATE_LIMITED),
        (500, FailureCause.TRANSPORT),
        (503, FailureCause.TRANSPORT),
        (408, FailureCause.TIMEOUT),
        (400, FailureCause.REFUSED_REQUEST),
        (401, FailureCause.REFUSED_REQUEST),
        (404, FailureCause.REFUSED_REQUEST),
        (422, FailureCause.REFUSED_REQUEST),
    ],
)
def test_a_failure_has_its_cause_and_is_not_retried(endpoint, llm_config, status, cause):
    endpoint.fail(status, '{"error": {"message": "because I say so"}}')
    err = error(llm_config(max_retries=2))
    assert (err.cause, err.status) == (cause, status)
    assert "because I say so" in str(err)
    assert len(endpoint.chats) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:10 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e99"}, 3600.0),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read_in_any_form(headers, seconds):
    assert retry_after_s(headers, now=60.0) == seconds


def test_a_date_without_a_time_zone_is_universal_time(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after_s({"retry-after": "Thu, 01 Jan 1970 00:01:10 -0000"}, now=60.0) == 10.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_rate_limit_carries_the_wait_asked_for(endpoint, llm_config):
    endpoint.fail(429, **{"retry-after-ms": "250"})
    assert error(llm_config()).retry_after_s == 0.25


def test_a_server_that_trickles_bytes_times_out_after_one_request(endpoint, llm_config):
    endpoint.hang()
    started = time.perf_counter()
    err = error(llm_config(timeout_s=0.5, max_retries=4))
    assert (err.cause, err.status) == (FailureCause.TIMEOUT, None)
    assert time.perf_counter() - started < 5
    assert len(endpoint.chats) == 1


def test_a_refused_connection_is_a_transport_failure(llm_config):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        assert error(llm_config(base_url=url, max_retries=0)).cause is FailureCause.TRANSPORT


def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_a_transport_failure(
    endpoint, llm_config
):
    endpoint.reset()
    assert error(llm_config()).cause is FailureCause.TRANSPORT
    assert len(endpoint.chats) == 1


@pytest.mark.parametrize(
    "body", ["", "<html>", "{", "[]", "{}", '{"choices": []}', '{"choices": [{"message": null}]}']
)
def test_an_answer_that_is_no_completion_is_a_transport_failure(endpoint, llm_config, body):
    endpoint.fail(200, body)
    err = error(llm_config())
    assert (err.cause, err.status) == (FailureCause.TRANSPORT, 200)


def test_calls_made_at_once_keep_their_causes_apart(endpoint, llm_config):
    endpoint.fail(429, **{"retry-after-ms": "60000"})
    endpoint.hang()

    async def two() -> list[FailureCause]:
        client = client_of(llm_config(timeout_s=1.0))
        calls = [client.complete(chat_request()) for _ in range(2)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        await client.close()
        return sorted(err.cause for err in errors if isinstance(err, ChatError))

    assert asyncio.run(two()) == [FailureCause.RATE_LIMITED, FailureCause.TIMEOUT]


def test_three_hundred_requests_can_be_out_at_once(endpoint, llm_config):
    endpoint.answers_from = 300  # one that waits for another's end would wait for ever

    async def many() -> list[ChatReply]:
        client = client_of(llm_config(timeout_s=60.0))
        try:
            return await asyncio.gather(*(client.complete(chat_request()) for _ in range(300)))
        finally:
            await client.close()

    assert {reply.text for reply in asyncio.run(many())} == {"ok"}
    assert len(endpoint.chats) == 300


# ----------------------------------------------------------------------------
# The key


def test_the_key_of_the_named_variable_is_sent(endpoint, llm_config, monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.key = KEY
    assert complete(llm_config(api_key_env="MY_JUDGE_KEY")).text == "ok"


def test_without_a_variable_no_key_of_another_service_is_sent(endpoint, llm_config, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    complete(llm_config())
    assert KEY not in str(endpoint.authorizations)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(llm_config, monkeypatch, value):
    monkeypatch.delenv("MY_JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_JUDGE_KEY", value)
    with pytest.raises(ConfigError, match="'MY_JUDGE_KEY'"):
        client_of(llm_config(api_key_env="MY_JUDGE_KEY"))


def test_what_is_wrong_with_a_further_endpoint_names_its_setting(llm_config, monkeypatch):
    monkeypatch.delenv("MY_JUDGE_KEY", raising=False)
    bad_key = {"base_url": "http://a:80/v1", "api_key_env": "MY_JUDGE_KEY"}
    config = llm_config(extra_endpoints=[bad_key, {"base_url": "http://b:99999/v1"}])
    for endpoint, name in zip(config.extra_endpoints, ("api_key_env", "base_url"), strict=True):
        with pytest.raises(ConfigError, match=f"judge.llm.extra_endpoints: {name}="):
            OpenAIChatClient(endpoint, config)


@pytest.mark.parametrize("value", [f"{KEY}\n", f" {KEY}", f"{KEY}\u00e9"])
def test_a_key_that_no_header_can_carry_is_refused_unquoted(llm_config, monkeypatch, value):
    monkeypatch.setenv("MY_JUDGE_KEY", value)
    with pytest.raises(ConfigError, match="'MY_JUDGE_KEY'") as caught:
        client_of(llm_config(api_key_env="MY_JUDGE_KEY"))
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_repr_message_traceback_or_log(endpoint, llm_config, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.key = "another key"  # the server refuses ours and quotes it
    config = llm_config(api_key_env="MY_JUDGE_KEY")
    err = error(config)
    assert "bad key: Bearer [key]" in str(err)
    shown = [repr(err), *traceback.format_exception(err), caplog.text]
    shown.append(repr(client_of(config)))
    assert not [text for text in shown if KEY in text]


# ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://x:ab/v1", "http://x:99999/v1", "http:// /v1", "http://:80/v1", "http://x\n/v1"]
)
def test_an_address_without_a_usable_host_or_port_is_a_config_error(llm_config, url):
    with pytest.raises(ConfigError, match="base_url"):
        client_of(llm_config(base_url=url))


def test_a_chat_error_survives_pickling():
    err = pickle.loads(pickle.dumps(ChatError(FailureCause.TIMEOUT, "late", 408)))
    assert (err.cause, str(err), err.status) == (FailureCause.TIMEOUT, "late", 408)
