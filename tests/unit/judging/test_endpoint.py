from __future__ import annotations

import asyncio
import logging
import socket
import traceback

import pytest

from rubric_rl.config.schema import EndpointConfig, JudgeBudgetConfig
from rubric_rl.errors import ConfigError, EndpointError
from rubric_rl.judging.endpoint import JudgeIdentity, check_judge, check_price

KEY = "sk-very-secret-0123456789"


def check(config, timeout_s: float = 5.0) -> JudgeIdentity:
    return asyncio.run(check_judge(config, timeout_s=timeout_s))


def refusal(config, timeout_s: float = 5.0) -> str:
    with pytest.raises(EndpointError) as caught:
        check(config, timeout_s)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "takes", "found", "calls"),
    [
        ("auto", (True, True), "structured_outputs", 1),
        ("auto", (False, True), "json_object", 2),
        ("auto", (False, False), "text", 3),
        ("structured_outputs", (True, True), "structured_outputs", 1),
        ("json_object", (True, True), "json_object", 1),
        ("text", (True, True), "text", 1),
    ],
)
def test_the_contract_is_the_strictest_that_the_endpoint_takes(
    endpoint, llm_config, wanted, takes, found, calls
):
    endpoint.takes_schema, endpoint.takes_json_object = takes
    identity = check(llm_config(contract=wanted))
    assert (identity.contract, identity.served_model) == (found, "judge-1")
    assert len(endpoint.chats) == calls
    assert all(chat["max_tokens"] == 16 for chat in endpoint.chats)


@pytest.mark.parametrize("contract", ["structured_outputs", "json_object"])
def test_a_contract_that_is_demanded_and_refused_is_an_error(endpoint, llm_config, contract):
    endpoint.takes_schema = endpoint.takes_json_object = False
    assert "judge.llm.contract=auto" in refusal(llm_config(contract=contract))


def test_the_model_that_answers_must_be_the_one_expected(endpoint, llm_config):
    endpoint.served = "judge-1-0613"
    assert check(llm_config()).served_model == "judge-1-0613"
    said = refusal(llm_config(served_model="judge-1-0701"))
    assert "'judge-1-0613'" in said
    assert "judge.llm.served_model='judge-1-0701'" in said


def test_log_probs_that_are_wanted_and_missing_are_an_error(endpoint, llm_config):
    assert "judge.llm.logprobs=false" in refusal(llm_config(logprobs=True))
    endpoint.tokens = [{"token": "ok", "logprob": -0.1, "top_logprobs": []}]
    assert check(llm_config(logprobs=True)).logprobs is True


def test_every_endpoint_is_checked_and_the_one_at_fault_named(endpoint, llm_config):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        config = llm_config(extra_endpoints=[EndpointConfig(base_url=dead).model_dump()])
        assert dead in refusal(config)


@pytest.mark.parametrize("prices", [{}, {"prompt": 1.0}])
def test_money_can_not_be_limited_without_a_price(llm_config, prices):
    config = llm_config(**{f"usd_per_million_{k}_tokens": v for k, v in prices.items()})
    check_price(config, JudgeBudgetConfig())
    with pytest.raises(ConfigError, match="usd_per_million_prompt_tokens"):
        check_price(config, JudgeBudgetConfig(max_cost_usd=1.0))


def test_a_model_of_the_table_has_its_price(llm_config):
    check_price(llm_config(model="openai/gpt-4.1-mini"), JudgeBudgetConfig(max_cost_usd=1.0))


def test_a_server_that_refuses_any_request_is_not_taken_for_one_without_schemas(
    endpoint, llm_config
):
    for _ in range(3):
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
    assert check(llm_config()).contract == "structured_outputs"
    endpoint.fail(404, '{"detail": "Not Found"}')
    assert "usually ends in /v1" in refusal(llm_config())


@pytest.mark.parametrize(("status", "said"), [(429, "rate limit"), (500, "server's log")])
def test_nothing_is_retried(endpoint, llm_config, status, said):
    endpoint.fail(status)
    assert said in refusal(llm_config())
    assert len(endpoint.chats) == 1
