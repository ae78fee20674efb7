from __future__ import annotations

import asyncio
import gc
import logging
import socket
import traceback

import pytest

from rubric_rl.config.judge import EndpointConfig, JudgeBudgetConfig
from rubric_rl.errors import ConfigError, EndpointError
from rubric_rl.judging.endpoint import JudgeIdentity, check_judge, check_price

KEY = "sk-very-secret-0123456789"


def check(config, timeout_s: float = 5.0) -> JudgeIdentity:
    return asyncio.run(check_judge(config, timeout_s=timeout_s))


def refusal(config, timeout_s: float = 5.0) -> str:
    with pytest.raises(EndpointError) as caught:
        check(config, timeout_s)
    return str(caught.value)


def two(llm_config, second_endpoint, **values):
    return llm_config(extra_endpoints=[{"base_url": second_endpoint.base_url}], **values)


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


@pytest.mark.parametrize(
    ("first", "second", "contract"),
    [
        # (schema, JSON) that each takes
        ((True, True), (True, True), "structured_outputs"),
        ((True, True), (False, True), "json_object"),
        # The first takes schemas, and yet not the looser JSON.
        ((True, False), (False, True), "text"),
    ],
)
def test_the_contract_is_one_that_every_endpoint_takes(
    endpoint, second_endpoint, llm_config, first, second, contract
):
    endpoint.takes_schema, endpoint.takes_json_object = first
    second_endpoint.takes_schema, second_endpoint.takes_json_object = second
    assert check(two(llm_config, second_endpoint)).contract == contract
    assert len(endpoint.chats) == len(second_endpoint.chats) <= 3


@pytest.mark.parametrize("contract", ["structured_outputs", "json_object"])
def test_a_contract_that_one_endpoint_refuses_names_that_endpoint(
    endpoint, second_endpoint, llm_config, contract
):
    second_endpoint.takes_schema = second_endpoint.takes_json_object = False
    said = refusal(two(llm_config, second_endpoint, contract=contract))
    assert second_endpoint.base_url in said
    assert endpoint.base_url not in said


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


def test_endpoints_that_answer_as_different_models_are_refused(
    endpoint, second_endpoint, llm_config
):
    config = two(llm_config, second_endpoint)
    second_endpoint.served = "judge-1-0701"
    said = refusal(config)
    assert f"{endpoint.base_url} answers as 'judge-1'" in said
    assert f"{second_endpoint.base_url} answers as 'judge-1-0701'" in said
    second_endpoint.served = None
    assert check(config).served_model == "judge-1"


def test_a_model_that_is_expected_must_be_named_by_every_endpoint(
    endpoint, second_endpoint, llm_config
):
    config = two(llm_config, second_endpoint, served_model="judge-1")
    assert check(config).served_model == "judge-1"
    second_endpoint.served = None
    assert f"{second_endpoint.base_url} names no model" in refusal(config)


def test_a_model_that_thinks_is_given_room_to_finish(endpoint, llm_config):
    endpoint.models = ["o4-mini"]
    check(llm_config(model="o4-mini"))
    assert endpoint.chats[0]["max_completion_tokens"] == 1024
    check(llm_config(model="o4-mini", max_reply_tokens=300))
    assert endpoint.chats[1]["max_completion_tokens"] == 300


def test_a_model_without_log_probs_is_not_blamed_on_its_server(endpoint, llm_config):
    endpoint.models = ["o4-mini"]
    said = refusal(llm_config(model="o4-mini", logprobs=True))
    assert "judge.llm.model='o4-mini' has no log-probs" in said


def test_a_contract_that_the_table_denies_a_model_is_not_tried(endpoint, llm_config):
    endpoint.models = ["o1-mini"]
    assert check(llm_config(model="o1-mini")).contract == "text"
    assert len(endpoint.chats) == 1


def test_the_check_asks_with_a_system_turn_as_the_judge_does(endpoint, llm_config):
    check(llm_config())
    assert [turn["role"] for turn in endpoint.chats[0]["messages"]] == ["system", "user"]


def test_log_probs_that_are_wanted_and_missing_are_an_error(endpoint, llm_config):
    assert "judge.llm.logprobs=false" in refusal(llm_config(logprobs=True))
    endpoint.tokens = [{"token": "ok", "logprob": -0.1, "top_logprobs": []}]
    assert check(llm_config(logprobs=True)).logprobs is True


def test_every_endpoint_is_checked_and_the_one_at_fault_named(endpoint, llm_config):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        config = llm_config(extra_endpoints=[EndpointConfig(base_url=dead).model_dump()])
        said = refusal(config)
    assert dead in said
    assert "correct judge.llm.extra_endpoints: base_url" in said
    assert endpoint.base_url not in said


def test_all_faults_are_told_at_once(endpoint, second_endpoint, llm_config):
    endpoint.models, second_endpoint.key = ["other"], KEY
    first, second = refusal(two(llm_config, second_endpoint)).splitlines()
    assert f"{endpoint.base_url} doesn't serve judge.llm.model='judge-1'" in first
    assert f"{second_endpoint.base_url} doesn't authorise" in second
    assert "set judge.llm.extra_endpoints: api_key_env" in second


def test_no_connection_is_left_open_after_a_refusal(endpoint, llm_config, recwarn):
    endpoint.fail(500)
    refusal(llm_config())
    gc.collect()
    assert [str(w.message) for w in recwarn if w.category is ResourceWarning] == []


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
