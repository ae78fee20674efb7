"""Registers the object-store transport with vLLM.

vLLM calls `register` in each of its processes (entry point group
`vllm.general_plugins`), before it creates its weight-transfer engine.
"""

from __future__ import annotations


def register() -> None:
    """Make `object_store` known, by path: importing the engine here would import torch."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "object_store" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            "object_store",
            "rubric_rl.weight_sync.vllm_receiver",
            "ObjectStoreWeightTransferEngine",
        )
