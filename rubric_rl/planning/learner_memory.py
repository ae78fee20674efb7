"""Memory of a learner rank: DeepSpeed's states, the reference, activations, logits.

Mixed precision with Adam (ZeRO, arXiv 1910.02054, section 3.1): of each trained
parameter the weight and the gradient in the compute type (b bytes) and, in float32,
a master weight and two moments (12 bytes). On N ranks

    ZeRO 1    b + b + 12/N      ZeRO 2    b + (b + 12)/N      ZeRO 3    (2 b + 12)/N

Beside these DeepSpeed 0.19 has buffers of its own (constants below, its defaults),
and at the optimizer's step gradients in float32 and what AdamW works with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rubric_rl.config.schema import Config
from rubric_rl.controller.checkpoint_size import DTYPE_BYTES
from rubric_rl.planning.accounts import Account, Item, count, item
from rubric_rl.planning.activations import block_bytes_per_token
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.hardware import GIB
from rubric_rl.planning.model_shape import ModelShape

_MASTER, _MOMENTS = 4, 8

# DeepSpeed's defaults, in elements.
_REDUCE_BUCKET = 500_000_000
_MAX_LIVE_PARAMETERS = 1_000_000_000
_SUB_GROUP = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerMemory:
    """Of one rank, at the times that may decide."""

    loading: Account
    """While a whole model is on the device, before ZeRO shards it."""
    backward: Account
    step: Account
    starting: Account
    """While colocated engines start, and a checkpoint is loaded."""
    resting: Account
    """While colocated engines generate."""
    host: Account
    """What each rank keeps in host memory at most."""

    @property
    def peak(self) -> Account:
        """The largest while the learner works."""
        return max((self.loading, self.backward, self.step), key=lambda account: account.num_bytes)


def learner_memory(config: Config, shape: ModelShape, assumptions: Assumptions) -> LearnerMemory:
    """Work out the accounts of one learner rank. Raises ModelError."""
    parts = _Parts(config, shape, assumptions)
    return LearnerMemory(
        loading=Account(when="loading the model", items=tuple(parts.loading())),
        backward=Account(when="forward and backward pass", items=tuple(parts.backward())),
        step=Account(when="optimizer step", items=tuple(parts.step())),
        starting=Account(when="while engines start", items=tuple(parts.starting())),
        resting=Account(when="while engines generate", items=tuple(parts.resting())),
        host=Account(when="host memory of a rank", items=tuple(parts.host())),
    )


def reference_memory(config: Config, shape: ModelShape, assumptions: Assumptions) -> Account:
    """Of a worker of learner.reference=actor: a whole copy, and one pass through it."""
    parts = _Parts(config, shape, assumptions)
    whole = item("weights", parts.b * shape.num_parameters, parts.whole(shape.num_parameters))
    items = (whole, *parts.forward_only(), parts.process())
    return Account(when="reference pass", items=items)


def trained_parameters(config: Config, shape: ModelShape) -> int:
    """All weights, or the adapters. Raises ModelError."""
    lora = config.learner.lora
    if not lora.enabled:
        return shape.num_parameters
    targets = None if lora.target_modules == "all-linear" else lora.target_modules
    return shape.adapter_parameters(lora.rank, targets)


class _Parts:
    """The items, each worked out once and put into the accounts that have it."""

    def __init__(self, config: Config, shape: ModelShape, assumptions: Assumptions) -> None:
        self.config, self.shape, self.assumptions = config, shape, assumptions
        self.learner = config.learner
        self.b = DTYPE_BYTES[config.learner.dtype]
        self.ranks = config.learner.num_workers
        self.trained = trained_parameters(config, shape)
        self.on_gpu = config.cluster.device == "gpu"
        self.is_sharded = config.learner.zero_stage == 3

    def whole(self, parameters: float) -> str:
        return f"{self.b} B x {count(parameters)}"

    def _share(self, what: str, each: int, parameters: float, *, shared: bool) -> Item:
        ranks = self.ranks if shared else 1
        over = f" / {ranks} ranks" if ranks > 1 else ""
        formula = f"{each} B x {count(parameters)}{over}"
        return item(what, each * parameters / ranks, formula)

    # ------------------------------------------------------------------------
    # States

    def weights(self) -> Item:
        return self._share("weights", self.b, self._all_weights, shared=self.is_sharded)

    @property
    def _all_weights(self) -> int:
        adapters = self.trained if self.learner.lora.enabled else 0
        return self.shape.num_parameters + adapters

    def gradients(self) -> Item:
        shared = self.learner.zero_stage >= 2
        return self._share("gradients", self.b, self.trained, shared=shared)

    def master(self) -> Item:
        return self._share("master weights", _MASTER, self.trained, shared=True)

    def moments(self) -> Item:
        return self._share("Adam's moments", _MOMENTS, self.trained, shared=True)

    def reference(self) -> Iterator[Item]:
        if self.learner.resolved_reference != "copy":
            return
        shared = self.is_sharded and self.ranks > 1
        yield self._share("reference", self.b, self.shape.num_parameters, shared=shared)

    def states(self) -> Iterator[Item]:
        """On the device while the learner works."""
        if not self.learner.offload_parameters:
            yield self.weights()
        if not self._gradients_on_host:
            yield self.gradients()
        if not self.learner.offload_optimizer:
            yield self.master()
            yield self.moments()
        yield from self.reference()

    @property
    def _gradients_on_host(self) -> bool:
        """ZeRO 1 reduces whole gradients, so they are on the device first."""
        return self.learner.offload_optimizer and self.learner.zero_stage >= 2

    def process(self) -> Item:
        if self.on_gpu:
            gib = self.assumptions.process_gib
            return item("process", gib * GIB, f"{gib:g} GiB assumed: CUDA context, NCCL")
        gib = self.assumptions.host_process_gib
        return item("process", gib * GIB, f"{gib:g} GiB assumed: Python, torch")

    # ------------------------------------------------------------------------
    # What passes

    def gathered(self) -> Iterator[Item]:
        if self.is_sharded and self.ranks > 1:
            live = min(self._all_weights, _MAX_LIVE_PARAMETERS)
            yield item(
                "gathered weights", self.b * live, f"{self.b} B x {count(live)} live at once"
            )

    def bucket(self) -> Iterator[Item]:
        if self.is_sharded or self.on_gpu:
            # On the host what isn't written to takes no memory.
            size = _REDUCE_BUCKET if self.on_gpu else min(_REDUCE_BUCKET, self.trained)
            yield item("reduce bucket", self.b * size, f"{self.b} B x {count(size)}")

    def activations(self) -> Iterator[Item]:
        tokens, layers = self.learner.micro_batch_tokens, self.shape.num_layers
        block = block_bytes_per_token(self.shape, self.b)
        if self.learner.gradient_checkpointing:
            each = self.b * self.shape.hidden
            formula = f"{tokens} tokens x ({layers} x {each} B kept + {block} B of one layer)"
            yield item("activations", tokens * (layers * each + block), formula)
        else:
            formula = f"{tokens} tokens x {layers} layers x {block} B"
            yield item("activations", tokens * layers * block, formula)
        yield from self._attention_mask(tokens)

    def _attention_mask(self, tokens: int) -> Iterator[Item]:
        if self.learner.packing:
            yield item("attention mask", self.b * tokens**2, f"{self.b} B x {tokens}^2")
            return
        length = self.config.max_sequence_tokens  # never more than `tokens`
        yield item("attention mask", tokens * length, f"1 B x {tokens} tokens x {length}")

    def logits(self) -> Item:
        chunk, vocab = (
            min(self.learner.logits_chunk_tokens, self.learner.micro_batch_tokens),
            self.shape.vocab,
        )
        return item("logits", 8 * chunk * vocab, f"(4 + 4) B x {chunk} tokens x {count(vocab)}")

    def head_gradient(self) -> Iterator[Item]:
        """Summed in float32 over chunks, beside one product in the compute type."""
        if self.learner.lora.enabled:
            return
        each, table = 4 + (self.b if self.b < 4 else 0), self.shape.table_parameters
        parts = f"(4 + {self.b})" if self.b < 4 else "4"
        yield item("gradient of the head", each * table, f"{parts} B x {count(table)}")

    def forward_only(self) -> Iterator[Item]:
        tokens = self.learner.micro_batch_tokens
        block = block_bytes_per_token(self.shape, self.b)
        yield item("activations", tokens * block, f"{tokens} tokens x {block} B of one layer")
        yield self.logits()

    # ------------------------------------------------------------------------
    # Accounts

    def loading(self) -> Iterator[Item]:
        """The reference is loaded when the policy's states are there; else the policy alone."""
        if self.learner.resolved_reference == "copy":
            yield from (part for part in self.states() if part.what != "reference")
            yield from self.bucket()
        parameters = self.shape.num_parameters
        yield item("one whole model", self.b * parameters, self.whole(parameters))
        yield self.process()

    def backward(self) -> Iterator[Item]:
        yield from self.states()
        yield from self.bucket()
        yield from self.gathered()
        yield from self.activations()
        yield self.logits()
        yield from self.head_gradient()
        yield self.process()

    def step(self) -> Iterator[Item]:
        yield from self.states()
        yield from self.bucket()
        if not self.learner.offload_optimizer:
            group = self.trained / self.ranks
            if self.is_sharded:
                group = min(group, _SUB_GROUP)
            yield item("float32 gradients", 4 * group, f"4 B x {count(group)}")
            yield item("AdamW's temporaries", 4 * group, f"4 B x {count(group)}")
        yield self.process()

    def starting(self) -> Iterator[Item]:
        """Optimizer state is there before the first step."""
        yield from self.states()
        yield from self.bucket()
        yield self.process()

    def resting(self) -> Iterator[Item]:
        """ZeRO 3 moves moments and gradients to the host (`Learner.offload`); others stay."""
        moved = {"Adam's moments", "gradients"} if self.is_sharded else set[str]()
        yield from (part for part in self.states() if part.what not in moved)
        yield from self.bucket()
        yield self.process()

    def host(self) -> Iterator[Item]:
        gib = self.assumptions.host_process_gib
        yield item("process", gib * GIB, f"{gib:g} GiB assumed")
        if self.learner.offload_parameters:
            yield self.weights()
        if self._gradients_on_host:
            yield self.gradients()
        if self.learner.offload_optimizer:
            yield self.master()
            yield self.moments()
            yield self._share("float32 gradients", 4, self.trained, shared=True)
        elif self._rests_on_host:
            yield self.moments()
            yield self.gradients()
        if self.config.async_checkpoints:
            each = _MASTER + _MOMENTS + (0 if self.is_sharded else self.b)
            yield self._share("checkpoint being written", each, self.trained, shared=True)

    @property
    def _rests_on_host(self) -> bool:
        colocated = self.config.cluster.placement == "colocated"
        return self.is_sharded and self.on_gpu and colocated
