"""The learner's side of vLLM's own weight-transfer engines, `nccl` and `ipc`.

vLLM's trainer engines drive the whole exchange: they gather from a
`WeightSource`, send, and call the rollout workers through a client. Every
learner rank takes part, since gathering is a collective; rank 0 talks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from rubric_rl.weight_sync.object_store import BUCKET_BYTES
from rubric_rl.weight_sync.spec import FleetClient, SenderSpec

_DTYPE_OF_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class WeightOwner(Protocol):
    """What a learner offers: see `Learner.named_weights` and `Learner.weight_shapes`."""

    def named_weights(self, bucket_bytes: int) -> Iterator[list[tuple[str, torch.Tensor]]]: ...

    def weight_shapes(self) -> list[tuple[str, str, tuple[int, ...]]]: ...


class LearnerWeightSource(WeightSource):
    """The policy's weights as vLLM's engines read them."""

    def __init__(self, owner: WeightOwner) -> None:
        self._owner = owner

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(name, _DTYPE_OF_NAME[dtype], shape)
            for name, dtype, shape in self._owner.weight_shapes()
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in self._owner.named_weights(BUCKET_BYTES):
            for name, tensor in bucket:
                # A gathered tensor is gone once its bucket is left, while the
                # sender may still hold it back for its next package.
                yield name, tensor.clone()


def init_info(spec: SenderSpec) -> TrainerInitInfo:
    """The trainer's part of the handshake. Packed: memory is bounded by the buffers."""
    if spec.transport == "ipc":
        return IPCTrainerInitInfo(rank=spec.rank, packed=True)
    return NCCLTrainerInitInfo(
        rank=spec.rank,
        master_address=spec.master_address,
        master_port=spec.master_port,
        world_size=1 + spec.num_engine_processes,
        packed=True,
    )


def connect(
    spec: SenderSpec, owner: WeightOwner, client: FleetClient
) -> TrainerWeightTransferEngine[Any]:
    """Join learner and engines; called on every rank."""
    return WeightTransferTrainerFactory.trainer_init(
        init_info(spec), client=client, source=LearnerWeightSource(owner)
    )
