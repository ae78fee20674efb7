"""Whether the checkpoints of a run fit the disk, asked before anything expensive starts.

A run that ends at its first checkpoint for want of space has cost its steps.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

from rubric_rl.config.schema import Config
from rubric_rl.controller.checkpoint_size import DTYPE_BYTES, checkpoint_bytes, num_at_once
from rubric_rl.controller.schedule import num_steps
from rubric_rl.errors import RunFolderError
from rubric_rl.runtime.preflight import Inputs

_GIB = 2**30


def check_disk_space(config: Config, inputs: Inputs, *, num_there: int) -> None:
    """Compare what checkpoints and the export will take with what is free.

    A model that is not in a local directory as safetensors is not counted, nor are adapters,
    whose checkpoints are small.

    Args:
        num_there: checkpoints that are on disk already.

    Raises:
        RunFolderError: it isn't enough; says how much is needed and what to change.
    """
    num_parameters = count_parameters(Path(inputs.model_path))
    if num_parameters is None or config.learner.lora.enabled:
        return
    at_once = num_at_once(
        config,
        num_steps=num_steps(config, len(inputs.train_prompts)),
        has_evaluation=bool(inputs.eval_prompts),
    )
    each = checkpoint_bytes(config, num_parameters)
    export = num_parameters * DTYPE_BYTES[config.learner.dtype] if config.run.export_model else 0
    needed = max(0, at_once - num_there) * each + export
    free = shutil.disk_usage(_existing(Path(config.run.dir))).free
    if free < needed:
        raise RunFolderError(
            f"run.dir={config.run.dir!r} is on a disk with {free / _GIB:.1f} GiB free, but this "
            f"run will need {needed / _GIB:.1f} GiB: {at_once} checkpoints at once of "
            f"{each / _GIB:.1f} GiB ({num_parameters / 1e6:.1f} million parameters at "
            f"{each // num_parameters} bytes), of which {num_there} are there"
            f"{', and the exported model' if export else ''}. Free space, set run.dir to another "
            "disk, or lower run.keep_checkpoints or run.keep_best"
        )


def count_parameters(directory: Path) -> int | None:
    """Of a model directory, from the headers of its safetensors files; None if it has none."""
    files = sorted(directory.glob("*.safetensors"))
    return sum(_count_in(file) for file in files) if files else None


def _count_in(path: Path) -> int:
    """The file begins with the length of its JSON header, 8 bytes little-endian."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return sum(math.prod(shape) for shape in shapes)


def _existing(path: Path) -> Path:
    """The nearest folder that exists; its disk will hold `path`."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
