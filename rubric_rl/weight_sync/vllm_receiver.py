"""vLLM's side of the object-store transport: load a safetensors file into the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors.torch import load_file
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """Where one bucket lies."""

    path: str


class ObjectStoreWeightTransferEngine(
    WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]
):
    """Loads buckets in checkpoint format. The whole model must come before `finish`."""

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def __init__(self, config: WeightTransferConfig, vllm_config, device, model) -> None:
        super().__init__(config, vllm_config, device, model)

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        # vLLM repacks linear weights after loading and frees the originals; the
        # layerwise reload brings back parameters that weights can be loaded into.
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict) -> None:
        # The base class synchronizes an accelerator, which a CPU build has none of.
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        weights = load_file(update_info.path, device="cpu")
        # Copies: the mapped file is removed once this call returns, and the reload
        # may keep tensors until a layer is complete.
        cast(Any, self.model).load_weights(
            (name, tensor.to(self.device, copy=True)) for name, tensor in weights.items()
        )

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        """Nothing to tear down."""


def _repack_tied_heads(model: torch.nn.Module) -> None:
    """Pack anew each language-model head that shares its weight with an embedding.

    On CPU the head multiplies by a packed copy of its weight. A checkpoint holds
    a tied weight once, under the embedding's name, so the reload updates the
    weight that the two share but leaves the head's packed copy as it was.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    layers = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    embedded = {id(m.weight) for m in layers if not isinstance(m, ParallelLMHead)}
    for layer in layers:
        if isinstance(layer, ParallelLMHead) and id(layer.weight) in embedded:
            layer.quant_method.process_weights_after_loading(layer)
