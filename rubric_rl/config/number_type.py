"""`learner.dtype=auto`: the number type that the hardware is faster in.

bfloat16 on GPU, and on a processor with instructions for its products; float32 on others, where
bfloat16 is emulated. The processor is the one of the machine that composes the configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

_CPUINFO = Path("/proc/cpuinfo")
# Of x86 processors that multiply bfloat16 themselves; most have neither.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def with_number_type(received: Any, cpuinfo: Path = _CPUINFO) -> Any:
    """The composed values with `learner.dtype=auto` replaced; all others as they are."""
    match received:
        case {"learner": {"dtype": "auto"}, "cluster": {"device": "gpu"}}:
            dtype = "bfloat16"
        case {"learner": {"dtype": "auto"}}:
            dtype = _faster_on_cpu(cpuinfo)
        case _:
            return received
    return {**received, "learner": {**received["learner"], "dtype": dtype}}


def _faster_on_cpu(cpuinfo: Path) -> Literal["float32", "bfloat16"]:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "float32"
    flags = {
        flag
        for line in text.splitlines()
        if line.startswith("flags")
        for flag in line.partition(":")[2].split()
    }
    return "bfloat16" if flags & _BFLOAT16_FLAGS else "float32"
