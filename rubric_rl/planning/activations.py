"""What one block keeps of a token for its backward pass, in bytes.

Of a block of transformers' Llama, Qwen2 or Qwen3 with `sdpa` attention under a mask,
as autograd saves it; b bytes in the compute type, h hidden, i intermediate, q = heads
x head_dim, k = key-value heads x head_dim:

    two norms         2 (4 + 2 b) h     the input in float32, what is normalised, the output
    norms of a head   (4 + b) (q + k)   the same of queries and keys (Qwen3)
    attention         5 b q + 4 heads   queries, keys and values (repeated for each head of a
                                        group), the output twice, the sums of exponentials
    gated MLP         4 b i             gate, its activation, up, their product

A test compares this with what autograd saves.
"""

from __future__ import annotations

from rubric_rl.planning.model_shape import ModelShape

_FLOAT32 = 4


def block_bytes_per_token(shape: ModelShape, dtype_bytes: int) -> int:
    """The sum of the module's table."""
    b, queries = dtype_bytes, shape.num_heads * shape.head_dim
    norms = 2 * (_FLOAT32 + 2 * b) * shape.hidden
    head_norms = 0
    if shape.head_norms:
        head_norms = (_FLOAT32 + b) * (queries + shape.num_kv_heads * shape.head_dim)
    attention = 5 * b * queries + _FLOAT32 * shape.num_heads
    return norms + head_norms + attention + 4 * b * shape.intermediate
