from __future__ import annotations

import asyncio
import logging
import socket
import traceback

import pytest

from rubric_rl.errors import EndpointError
from rubric_rl.judging.endpoint import check_endpoint

KEY = "sk-very-secret-0123456789"


def check(config, timeout_s: float = 5.0) -> bool:
    return asyncio.run(check_endpoint(config, timeout_s=timeout_s)).structured_output


def refusal(config, timeout_s: float = 5.0) -> str:
    with pytest.raises(EndpointError) as caught:
        check(config, timeout_s)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "takes_schema", "found", "calls"),
    [
        ("auto", True, True, 1),
        ("auto", False, False, 2),
        ("json_schema", True, True, 1),
        ("none", True, False, 1),
        ("none", False, False, 1),
    ],
)
def test_structured_output_is_what_the_endpoint_takes(
    endpoint, llm_config, wanted, takes_schema, found, calls
):
    endpoint.takes_schema = takes_schema
    assert check(llm_config(structured_output=wanted)) is found
    assert len(endpoint.chats) == calls
    assert all(chat["max_tokens"] == 16 for chat in endpoint.chats)


def test_a_schema_that_is_demanded_and_refused_is_an_error(endpoint, llm_config):
    endpoint.takes_schema = False
    said = refusal(llm_config(structured_output="json_schema"))
    assert "judge.llm.structured_output=auto" in said


def test_a_server_that_refuses_any_request_is_not_taken_for_one_without_schemas(
    endpoint, llm_config
):
    for _ in range(2):
        endpoint.fail(400, '{"error": {"message": "use max_completion_tokens"}}')
    assert "use max_completion_tokens" in refusal(llm_config())


def test_nobody_listening_names_the_url_and_what_to_do(llm_config):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        said = refusal(llm_config(base_url=url))
    assert url in said
    assert "start the server or correct judge.llm.base_url" in said


def test_a_silent_server_is_given_up_on(endpoint, llm_config):
    endpoint.hang()
    assert "in 0.3 s" in refusal(llm_config(), timeout_s=0.3)


def test_a_refused_key_names_its_variable_and_not_the_key(
    endpoint, llm_config, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    endpoint.key = "another key"
    with pytest.raises(EndpointError, match="MY_JUDGE_KEY") as caught:
        check(llm_config(api_key_env="MY_JUDGE_KEY"))
    assert "HTTP 401" in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_a_missing_key_says_which_setting_names_its_variable(endpoint, llm_config):
    endpoint.key = KEY
    assert "judge.llm.api_key_env" in refusal(llm_config())


def test_a_model_not_served_lists_up_to_ten_that_are(endpoint, llm_config):
    endpoint.models = [f"m{index:02d}" for index in range(12)]
    said = refusal(llm_config())
    assert "'judge-1'" in said
    assert "'m09' and 2 more" in said
    assert "m10" not in said
    assert endpoint.chats == []


def test_a_server_without_a_model_list_is_checked_by_a_completion(endpoint, llm_config):
    endpoint.models = None
    assert check(llm_config()) is True
    endpoint.fail(404, '{"detail": "Not Found"}')
    assert "usually ends in /v1" in refusal(llm_config())


@pytest.mark.parametrize(("status", "said"), [(429, "rate limit"), (500, "server's log")])
def test_nothing_is_retried(endpoint, llm_config, status, said):
    endpoint.fail(status)
    assert said in refusal(llm_config())
    assert len(endpoint.chats) == 1
