from __future__ import annotations

import pytest

from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.judging.model_table import ModelTraits, Prices, prices_of, traits_of


def config(model: str, **values: object) -> LlmJudgeConfig:
    return LlmJudgeConfig.model_validate({"base_url": "http://a/v1", "model": model} | values)


@pytest.mark.parametrize("model", ["SmolLM2", "meta-llama/Llama-3.1-8B", "gpt-oss-120b", "gpt-50"])
def test_a_model_of_ones_own_server_accepts_everything_at_an_unknown_price(model):
    assert traits_of(model) == ModelTraits()
    assert traits_of(model).contracts == ("structured_outputs", "json_object", "text")


@pytest.mark.parametrize(
    "model",
    ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5-nano", "gpt-5.1", "openai/gpt-5.9-x"],
)
def test_models_that_think_take_another_limit_and_no_temperature(model):
    traits = traits_of(model)
    assert traits.thinking
    assert traits.max_tokens_parameter == "max_completion_tokens"
    assert (traits.accepts_temperature, traits.max_top_logprobs) == (False, 0)


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-4.1-mini", "gpt-4o-mini", "gpt-5-chat-latest"])
def test_models_that_do_not_think_take_temperature_and_tell_log_probs(model):
    traits = traits_of(model)
    assert not traits.thinking
    assert traits.max_tokens_parameter == "max_tokens"
    assert traits.accepts_temperature
    assert traits.max_top_logprobs == 5


def test_the_longest_name_counts():
    assert traits_of("o1").contracts == ("structured_outputs", "json_object", "text")
    assert traits_of("o1-mini-2024-09-12").contracts == ("text",)
    assert traits_of("gpt-4o-2024-05-13").contracts == ("json_object", "text")
    assert traits_of("gpt-4o-2024-08-06").contracts[0] == "structured_outputs"


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("o1-preview", False),
        ("o1", True),
        ("google/gemma-2-9b-it", False),
        ("gemma-2b-it", False),
        ("google/gemma-3-4b-it", True),
    ],
)
def test_a_system_turn_is_kept_from_models_that_refuse_it(model, takes):
    assert traits_of(model).takes_system is takes


@pytest.mark.parametrize(
    "model",
    ["gpt-4.1-mini", "openai/gpt-4.1-mini", "azure/GPT-4.1-mini", "gpt-4.1-mini-2025-04-14"],
)
def test_a_provider_and_a_date_do_not_change_the_price(model):
    assert traits_of(model).prices == Prices(prompt=0.40, completion=1.60)


def test_a_snapshot_with_a_price_of_its_own_has_that():
    assert traits_of("gpt-4o-2024-05-13").prices == Prices(prompt=5.0, completion=15.0)
    assert traits_of("gpt-4o-2024-11-20").prices == Prices(prompt=2.5, completion=10.0)


@pytest.mark.parametrize("model", ["o3-pro", "o1-pro", "gpt-5-pro", "gpt-4o-audio-preview"])
def test_a_relative_of_a_priced_model_is_not_taken_to_cost_the_same(model):
    assert traits_of(model).prices is None


def test_the_cost_of_a_request_is_worked_out_by_hand():
    # 1,500 x 0.40 / 1e6 + 250 x 1.60 / 1e6 = 0.0006 + 0.0004
    assert Prices(prompt=0.40, completion=1.60).cost(1500, 250) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("model", "given", "prices"),
    [
        ("gpt-4.1", {}, Prices(prompt=2.0, completion=8.0)),
        ("gpt-4.1", {"prompt": 1.0}, Prices(prompt=1.0, completion=8.0)),
        ("gpt-4.1", {"prompt": 0.0, "completion": 0.0}, Prices(prompt=0.0, completion=0.0)),
        ("mine", {}, None),
        ("mine", {"prompt": 1.0}, None),
        ("mine", {"completion": 1.0}, None),
        ("mine", {"prompt": 1.0, "completion": 3.0}, Prices(prompt=1.0, completion=3.0)),
    ],
)
def test_prices_of_the_config_count_before_the_table_and_half_a_price_is_none(model, given, prices):
    values = {f"usd_per_million_{name}_tokens": value for name, value in given.items()}
    assert prices_of(config(model, **values)) == prices


def test_a_server_that_the_run_starts_costs_nothing():
    hosted = config("some/model", backend="vllm", base_url=None)
    assert prices_of(hosted) == Prices(prompt=0.0, completion=0.0)
