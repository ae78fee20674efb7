"""Shapes of common models, for planning where the hub can't be reached.

From each model's config.json; a test compares the counts with the totals that
the models are published with.
"""

from __future__ import annotations

from rubric_rl.planning.model_shape import ModelShape


def _qwen3(
    num_layers: int, hidden: int, intermediate: int, heads: tuple[int, int], *, tied: bool
) -> ModelShape:
    return ModelShape(
        num_layers=num_layers,
        hidden=hidden,
        intermediate=intermediate,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=128,
        vocab=151_936,
        tied=tied,
        head_norms=True,
    )


def _qwen25(
    num_layers: int, hidden: int, intermediate: int, heads: tuple[int, int], vocab: int
) -> ModelShape:
    return ModelShape(
        num_layers=num_layers,
        hidden=hidden,
        intermediate=intermediate,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=128,
        vocab=vocab,
        tied=False,
        qkv_bias=True,
    )


def _llama3(
    num_layers: int, hidden: int, intermediate: int, heads: tuple[int, int], *, tied: bool
) -> ModelShape:
    return ModelShape(
        num_layers=num_layers,
        hidden=hidden,
        intermediate=intermediate,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=hidden // heads[0],
        vocab=128_256,
        tied=tied,
    )


_SMOLLM2_135M = ModelShape(
    num_layers=30,
    hidden=576,
    intermediate=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab=49_152,
    tied=True,
)

_KNOWN: dict[str, ModelShape] = {
    "builtin:smollm2": _SMOLLM2_135M,
    "huggingfacetb/smollm2-135m": _SMOLLM2_135M,
    "qwen/qwen3-0.6b": _qwen3(28, 1024, 3072, (16, 8), tied=True),
    "qwen/qwen3-1.7b": _qwen3(28, 2048, 6144, (16, 8), tied=True),
    "qwen/qwen3-4b": _qwen3(36, 2560, 9728, (32, 8), tied=True),
    "qwen/qwen3-8b": _qwen3(36, 4096, 12_288, (32, 8), tied=False),
    "qwen/qwen3-14b": _qwen3(40, 5120, 17_408, (40, 8), tied=False),
    "qwen/qwen3-32b": _qwen3(64, 5120, 25_600, (64, 8), tied=False),
    "qwen/qwen2.5-7b": _qwen25(28, 3584, 18_944, (28, 4), 152_064),
    "qwen/qwen2.5-32b": _qwen25(64, 5120, 27_648, (40, 8), 152_064),
    "meta-llama/llama-3.2-1b": _llama3(16, 2048, 8192, (32, 8), tied=True),
    "meta-llama/llama-3.2-3b": _llama3(28, 3072, 8192, (24, 8), tied=True),
    "meta-llama/llama-3.1-8b": _llama3(32, 4096, 14_336, (32, 8), tied=False),
    "meta-llama/llama-3.1-70b": _llama3(80, 8192, 28_672, (64, 8), tied=False),
}
_VARIANTS = ("-base", "-instruct")


def known_shape(name: str) -> ModelShape | None:
    """The shape of a model by its hub name; base and instruct variants have the same."""
    plain = name.lower()
    for variant in _VARIANTS:
        plain = plain.removesuffix(variant)
    return _KNOWN.get(plain)


def known_names() -> list[str]:
    """Names that `known_shape` takes, variants aside."""
    return sorted(_KNOWN)
