"""The ranks of a learner as one process group."""

from __future__ import annotations

import os

import torch

from rubric_rl.learner.accelerator import deepspeed, load_communication_op
from rubric_rl.learner.spec import RankInfo


def init_process_group(rank: RankInfo, device: torch.device) -> None:
    """Join it: nccl on GPU, gloo on CPU. Once in a process."""
    load_communication_op()
    backend = "nccl" if device.type == "cuda" else "gloo"
    os.environ.update(
        RANK=str(rank.rank),
        LOCAL_RANK="0",  # each rank sees one device only
        WORLD_SIZE=str(rank.num_ranks),
        MASTER_ADDR=rank.master_address,
        MASTER_PORT=str(rank.master_port),
    )
    deepspeed.init_distributed(
        dist_backend=backend,
        auto_mpi_discovery=False,
        verbose=False,
        rank=rank.rank,
        world_size=rank.num_ranks,
    )
