"""Memory by hand: 8.19 billion parameters on 8 ranks, and what changes it."""

from __future__ import annotations

import pytest

from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.engine_memory import engine_memory, rollout_engine
from rubric_rl.planning.hardware import GIB
from rubric_rl.planning.learner_memory import learner_memory, reference_memory
from rubric_rl.planning.model_shape import ModelShape

from .builders import paper

P = 8_190_735_360


def _items(account) -> dict[str, float]:
    return {part.what: part.num_bytes for part in account.items}


def test_zero_3_shards_all_states_and_the_reference(qwen: ModelShape):
    memory = learner_memory(paper(), qwen, Assumptions())
    items = _items(memory.backward)
    assert items["weights"] == items["gradients"] == items["reference"] == 2 * P / 8
    assert items["master weights"] == 4 * P / 8
    assert items["Adam's moments"] == 8 * P / 8
    assert items["gathered weights"] == 2 * 1e9
    assert items["reduce bucket"] == 2 * 5e8
    # 512 tokens' logits in float32, twice; the head's gradient in float32 beside bfloat16.
    assert items["logits"] == 8 * 512 * 151_936
    assert items["gradient of the head"] == 6 * 151_936 * 4096


def test_zero_1_and_2_keep_whole_weights(qwen: ModelShape):
    one = _items(learner_memory(paper("learner=zero1"), qwen, Assumptions()).backward)
    two = _items(learner_memory(paper("learner=zero2"), qwen, Assumptions()).backward)
    assert one["weights"] == two["weights"] == two["reference"] == 2 * P
    assert one["gradients"] == 2 * P and two["gradients"] == 2 * P / 8
    assert one["master weights"] == two["master weights"] == 4 * P / 8
    assert "gathered weights" not in two


def test_checkpointing_keeps_one_layer_and_each_layers_input(qwen: ModelShape):
    # Two norms 2 x 8 x 4096, head norms 6 x (4096 + 1024), attention 10 x 4096 + 4 x 32, MLP
    # 8 x 12288.
    block = 65_536 + 30_720 + 40_960 + 128 + 98_304
    with_it = _items(learner_memory(paper(), qwen, Assumptions()).backward)
    assert with_it["activations"] == 7168 * (36 * 2 * 4096 + block)
    config = paper("learner.gradient_checkpointing=false")
    without = _items(learner_memory(config, qwen, Assumptions()).backward)
    assert without["activations"] == 7168 * 36 * block


def test_offloaded_states_are_on_the_host(qwen: ModelShape):
    memory = learner_memory(paper("learner=zero3_offload"), qwen, Assumptions())
    device, host = _items(memory.backward), _items(memory.host)
    assert not {"master weights", "Adam's moments", "gradients"} & device.keys()
    assert host["master weights"] == 4 * P / 8 and host["Adam's moments"] == 8 * P / 8


def test_a_colocated_learner_rests_without_moments_and_gradients(qwen: ModelShape):
    memory = learner_memory(paper(), qwen, Assumptions())
    # Weights, master weights, reference; the bucket; the process.
    assert memory.resting.num_bytes == (2 + 4 + 2) * P / 8 + 2 * 5e8 + 1.5 * GIB
    assert memory.starting.num_bytes == memory.resting.num_bytes + (8 + 2) * P / 8


def test_adapters_have_the_only_states(qwen: ModelShape):
    config = paper("learner=lora", "learner.num_workers=8")
    adapters = qwen.adapter_parameters(16)
    items = _items(learner_memory(config, qwen, Assumptions()).backward)
    assert items["weights"] == 2 * (P + adapters)
    assert items["Adam's moments"] == 8 * adapters / 8
    assert "reference" not in items and "gradient of the head" not in items


def test_a_reference_worker_holds_a_whole_model(qwen: ModelShape):
    config = paper("learner.reference=actor")
    assert _items(reference_memory(config, qwen, Assumptions()))["weights"] == 2 * P
    assert "reference" not in _items(learner_memory(config, qwen, Assumptions()).backward)


def test_the_kv_cache_is_what_an_engine_has_left(qwen: ModelShape):
    engine = engine_memory(rollout_engine(paper(), qwen), Assumptions(), 80.0)
    fixed = 2 * P + 2 * 2048 * (4 * 4096 + 3 * 12_288) + 8 * 192 * 151_936 + 2.5 * GIB
    assert engine.limit_gib == pytest.approx(48.0)
    assert engine.kv_cache_gib == pytest.approx(48.0 - fixed / GIB)
    # 2 x 36 layers x 8 heads x 128 x 2 bytes.
    assert engine.settings.kv_bytes == 147_456
    assert engine.kv_tokens == int((48.0 * GIB - fixed) / 147_456)
    assert engine.concurrent_longest == engine.kv_tokens / 3584


def test_tensor_parallelism_divides_weights_and_keys(qwen: ModelShape):
    config = paper("rollout.tensor_parallel_size=2", "rollout.num_workers=4")
    engine = engine_memory(rollout_engine(config, qwen), Assumptions(), 80.0)
    assert engine.settings.kv_bytes == 147_456 / 2
    assert _items(engine.fixed)["weights"] == P
    # There are 8 key-value heads, so that 16 devices hold each of them twice.
    wide = paper("rollout.tensor_parallel_size=16", "learner.num_workers=128")
    assert rollout_engine(wide, qwen).kv_bytes == 147_456 / 8


def test_an_engine_on_cpu_has_the_cache_that_is_configured(qwen: ModelShape):
    config = paper("cluster=cpu", "rollout.kv_cache_gib=3")
    engine = engine_memory(rollout_engine(config, qwen), Assumptions(), 0.0)
    assert engine.kv_cache_gib == pytest.approx(3.0)
