"""Parameters are counted as the models have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rubric_rl.errors import ModelError
from rubric_rl.planning.known_models import known_names, known_shape
from rubric_rl.planning.model_shape import ModelShape, read_shape, shape_of

from ...tiny_llama import tiny_llama

# As published with the models.
TOTALS = {
    "builtin:smollm2": 134_515_008,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B-Base": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
}
# q: 8 -> 3 x 4, k and v: 8 -> 1 x 4, o: 12 -> 8, three of 8 x 10; two norms of 8.
SMALL = ModelShape(
    num_layers=2,
    hidden=8,
    intermediate=10,
    num_heads=3,
    num_kv_heads=1,
    head_dim=4,
    vocab=50,
    tied=False,
)


@pytest.mark.parametrize("name", TOTALS)
def test_the_known_models_have_their_published_sizes(name: str):
    shape = known_shape(name)
    assert shape is not None and shape.num_parameters == TOTALS[name]


def test_an_unknown_model_has_no_shape_and_all_known_names_do():
    assert known_shape("Qwen/Qwen3-9B") is None
    assert all(known_shape(name) for name in known_names())


def test_a_small_shape_by_hand():
    layer = 8 * 12 + 2 * 8 * 4 + 12 * 8 + 3 * 8 * 10 + 2 * 8
    assert SMALL.layer_parameters == layer == 512
    assert SMALL.num_parameters == 2 * 512 + 8 + 2 * 50 * 8
    # Key and value, 2 layers, 1 head of 4, 2 bytes.
    assert SMALL.kv_bytes_per_token(2) == 2 * 2 * 1 * 4 * 2


def test_adapters_have_rank_times_inputs_and_outputs():
    # q 8 + 12, k and v 8 + 4 each, o 12 + 8, gate, up, down 18 each.
    assert SMALL.adapter_parameters(3) == 2 * 3 * (20 + 12 + 12 + 20 + 3 * 18)
    assert SMALL.adapter_parameters(3, ("q_proj", "v_proj")) == 2 * 3 * (20 + 12)
    with pytest.raises(ModelError, match="qkv_proj"):
        SMALL.adapter_parameters(3, ("qkv_proj",))


@pytest.mark.parametrize("tied", [False, True])
def test_a_config_counts_what_its_model_has(tied: bool):
    model = tiny_llama(tie_word_embeddings=tied)
    shape = shape_of(model.config.to_dict(), where="config.json")
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())


def test_other_families_are_refused_with_what_to_do(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_moe"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"'qwen3_moe'.*--model-config"):
        read_shape(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="can't be read as JSON"):
        read_shape(path)
