"""The configuration of the learner: DeepSpeed, the optimizer, adapters, the reference policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rubric_rl.config.section import Fraction, NonEmptyStr, PositiveFloat, PositiveInt, Section

ReferenceName = Literal["auto", "copy", "lora_base", "actor", "none"]


class LoraConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685); the weights that they adapt stay as they are."""

    rank: int = Field(default=0, ge=0)
    """Rank of the adapters; 0: none, all weights are trained."""
    alpha: PositiveFloat = 32.0
    """What an adapter adds is multiplied by alpha / rank."""
    target_modules: Literal["all-linear"] | tuple[NonEmptyStr, ...] = "all-linear"
    """Names of the layers that are adapted, as `[q_proj,v_proj]`; `all-linear`: every linear
    layer but the head."""

    @property
    def enabled(self) -> bool:
        """Adapters are trained, not all weights."""
        return self.rank > 0


class LearnerConfig(Section):
    """DeepSpeed, the optimizer and its schedule."""

    num_workers: PositiveInt = 1
    """Learner ranks, one process (and on GPU one device) each."""
    zero_stage: Literal[1, 2, 3] = 2
    """ZeRO: 1 shards optimizer state, 2 gradients too, 3 parameters too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the policy; optimizer state is always float32. Written as `auto` it is
    bfloat16 on GPU and on CPUs that multiply it (AVX512_BF16, AMX), else float32."""
    learning_rate: PositiveFloat = 1e-5
    """AdamW's rate after the warm-up."""
    warmup_frac: Fraction = 0.1
    """Share of all steps over which the rate rises linearly."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The rate after the warm-up: it stays, or falls along half a cosine to 0 at the last step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decay of weight matrices (not of norms and biases), decoupled from the gradient."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of AdamW's mean of gradients."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of AdamW's mean of squared gradients."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    micro_batch_tokens: PositiveInt = 1024
    """Padded tokens that go through the model at once, for each rank."""
    packing: bool = False
    """Put the samples of a micro-batch in one row without padding, and a prompt that several
    share in it once. Needs `sdpa` or `eager` attention over the whole sequence."""
    logits_chunk_tokens: PositiveInt = 512
    """Tokens whose logits exist at once: their memory is this times the vocabulary, however long
    the micro-batch. Beyond one chunk the head's forward pass runs twice."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory (GPU only)."""
    offload_parameters: bool = False
    """Keep parameters in host memory and fetch them layer by layer (GPU and ZeRO 3 only)."""
    lora: LoraConfig = LoraConfig()
    """Train adapters instead of all weights."""
    reference: ReferenceName = "auto"
    """Where the log-probs of the policy as it was loaded come from, which the KL compares with:
    a frozen `copy` in each rank; `lora_base`, the policy without its adapters; `actor`, a copy in
    workers of its own; `none`, without a KL. `auto` is `lora_base` with adapters, else `copy`."""
    reference_workers: PositiveInt = 1
    """Workers of `reference=actor`, one process (and on GPU one device) each."""
    attn_implementation: str = "sdpa"
    """Passed to transformers: `sdpa`, `eager`, `flash_attention_2`."""
    num_threads: PositiveInt | None = None
    """CPU threads of each rank; None divides its node's CPUs among the ranks."""

    @property
    def resolved_reference(self) -> Literal["copy", "lora_base", "actor", "none"]:
        """`reference`, `auto` resolved."""
        if self.reference != "auto":
            return self.reference
        return "lora_base" if self.lora.enabled else "copy"
