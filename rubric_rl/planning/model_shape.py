"""The shape of a decoder-only transformer, and what follows from it by counting.

Llama, Qwen2, Qwen3, Mistral and their like: per layer grouped-query attention
(`q`, `k`, `v`, `o`), a gated MLP (`gate`, `up`, `down`) and two RMSNorms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rubric_rl.errors import ModelError

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
_NORM_PER_HEAD = ("qwen3",)
_QKV_BIAS = ("qwen2",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of one model; lengths are in elements."""

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    """The head is the embedding."""
    qkv_bias: bool = False
    head_norms: bool = False
    """Queries and keys have an RMSNorm over `head_dim`."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of one block, by its name."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def layer_parameters(self) -> int:
        """Of one block: matrices, two norms, and what the family adds."""
        matrices = sum(inputs * outputs for inputs, outputs in self.linears.values())
        biases = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim if self.qkv_bias else 0
        return matrices + 2 * self.hidden + biases + (2 * self.head_dim if self.head_norms else 0)

    @property
    def table_parameters(self) -> int:
        """Of the embedding, and as many of the head."""
        return self.vocab * self.hidden

    @property
    def body_parameters(self) -> int:
        """All but embedding and head: layers and the last norm."""
        return self.num_layers * self.layer_parameters + self.hidden

    @property
    def num_parameters(self) -> int:
        """Of the whole model; a tied head counts once."""
        return self.body_parameters + self.table_parameters * (1 if self.tied else 2)

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] | None = None) -> int:
        """LoRA's of all layers: rank x (inputs + outputs) of each target; None: every linear.

        Raises:
            ModelError: a target is no linear layer of the block.
        """
        linears = self.linears
        unknown = [name for name in targets or () if name not in linears]
        if unknown:
            raise ModelError(
                f"learner.lora.target_modules names {unknown}, but a block's linear layers are "
                f"{sorted(linears)}"
            )
        chosen = linears.values() if targets is None else (linears[name] for name in targets)
        return self.num_layers * sum(rank * (inputs + outputs) for inputs, outputs in chosen)

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Key and value of every layer."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype_bytes


class _ConfigFile(BaseModel):
    """What is read of a Hugging Face config.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int
    tie_word_embeddings: bool = False
    attention_bias: bool = False


def read_shape(path: Path) -> ModelShape:
    """The shape in a model's config.json.

    Raises:
        ModelError: it can't be read, or the family is not one whose parameters are known.
    """
    try:
        return shape_of(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, json.JSONDecodeError) as err:
        raise ModelError(f"{str(path)!r} can't be read as JSON: {err}") from err


def shape_of(settings: Mapping[str, object], *, where: str) -> ModelShape:
    """The shape in the settings of a config.json, which is found at `where`. Raises ModelError."""
    family = settings.get("model_type")
    if family not in _FAMILIES:
        raise ModelError(
            f"{where} is of model_type {family!r}, whose memory isn't worked out here: plan with "
            f"a model of {', '.join(_FAMILIES)} of about its size (--model-config FILE)"
        )
    try:
        config = _ConfigFile.model_validate(settings)
    except ValidationError as err:
        first = err.errors()[0]
        raise ModelError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from err
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
        qkv_bias=config.model_type in _QKV_BIAS or config.attention_bias,
        head_norms=config.model_type in _NORM_PER_HEAD,
    )
