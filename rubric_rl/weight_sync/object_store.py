"""The reference transport: weights as safetensors buckets through Ray's object store.

    learner rank 0  --bytes-->  object store  --bytes-->  rollout worker
                                                               | writes a file in shared memory
                                                               v
                                              engine process(es) map it and load it

The file is needed because a vLLM engine lives in processes of its own, which
can't read the object store. Works on any device, on one node or many; slower
than `nccl` and `ipc`, hence the reference for tests and the transport on CPU.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

BUCKET_BYTES = 256 << 20
"""Peak extra memory of a sync on each side: one bucket at a time."""

_SHARED_MEMORY = Path("/dev/shm")


def pack_bucket(bucket: list[tuple[str, Tensor]]) -> np.ndarray:
    """A bucket as a uint8 array that holds a safetensors file."""
    import numpy as np
    from safetensors.torch import save

    tensors = {name: tensor.to("cpu").contiguous() for name, tensor in bucket}
    return np.frombuffer(save(tensors), dtype=np.uint8)


@contextmanager
def bucket_file(packed: np.ndarray) -> Iterator[Path]:
    """Write a packed bucket where the engine's processes can map it, and remove it after."""
    directory = _SHARED_MEMORY if _has_room(_SHARED_MEMORY, packed.nbytes) else None
    handle, name = tempfile.mkstemp(suffix=".safetensors", prefix="rubric-rl-", dir=directory)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(packed.data)
        yield path
    finally:
        path.unlink()


def _has_room(directory: Path, num_bytes: int) -> bool:
    # Containers often give /dev/shm only 64 MB; writing more ends in a bus error.
    return directory.is_dir() and shutil.disk_usage(directory).free > 2 * num_bytes
