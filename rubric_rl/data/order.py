"""The order of prompts in an epoch, and the seed of every sample.

Both are pure functions of their arguments, by hash, so that they are the same
in each process, on each machine and in each Python version, and a resumed run
needs no generator state to go on.
"""

from __future__ import annotations

import hashlib
import json


def epoch_order(num_prompts: int, *, seed: int, epoch: int, shuffle: bool) -> list[int]:
    """Indices 0 to num_prompts - 1, in the order in which the epoch takes them."""
    indices = list(range(num_prompts))
    if not shuffle:
        return indices
    return sorted(indices, key=lambda index: (_digest("epoch_order", seed, epoch, index), index))


def sample_seed(run_seed: int, purpose: str, epoch: int, prompt_id: str, sample_index: int) -> int:
    """Seed of one sample, in [0, 2**31).

    `purpose` keeps uses apart, for example training from evaluation.
    """
    digest = _digest("sample_seed", run_seed, purpose, epoch, prompt_id, sample_index)
    return int.from_bytes(digest[:4], "big") >> 1


def _digest(*parts: str | int) -> bytes:
    # JSON, so that no two lists of parts read alike.
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()
