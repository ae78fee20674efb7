"""The formula of activations against what autograd saves."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rubric_rl.planning.activations import block_bytes_per_token
from rubric_rl.planning.model_shape import shape_of

_BYTES = {torch.float32: 4, torch.bfloat16: 2}
_ROWS, _LENGTH = 2, 64


def _saved_bytes(model: torch.nn.Module) -> int:
    """Storage of all tensors that a forward pass saves, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.ones(_ROWS, _LENGTH, dtype=torch.int64)
    mask = ids.clone()
    mask[:, 0] = 0  # padding, so that attention has a mask
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(t.untyped_storage().nbytes() for p, t in saved.items() if p not in weights)


@pytest.mark.parametrize("dtype", _BYTES, ids=str)
@pytest.mark.parametrize(
    "make",
    [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)],
    ids=["llama", "qwen3"],
)
def test_a_block_keeps_what_the_formula_says(make, dtype: torch.dtype):
    sizes = {
        "vocab_size": 50,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    configs = [make[0](num_hidden_layers=n, attn_implementation="sdpa", **sizes) for n in (1, 2)]
    one, two = (_saved_bytes(make[1](config).to(dtype).model) for config in configs)
    expected = block_bytes_per_token(shape_of(configs[0].to_dict(), where=""), _BYTES[dtype])
    # The output of attention may be saved once or twice, by how its kernel lays it out.
    assert (two - one) / (_ROWS * _LENGTH) == pytest.approx(expected, rel=0.1)
