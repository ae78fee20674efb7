"""OpenRLHF's loss functions, importable with and without CUDA packages.

`openrlhf.models` imports flash-attn at its top, which does not exist on a CPU.
Its loss and KL modules are pure torch, so where flash-attn is missing the
package is entered as a bare module with its path and its `__init__` does not
run. Where flash-attn is installed the ordinary import is used.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def _enter_bare_package() -> None:
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("openrlhf is not installed (extras: cpu, gpu)")
    package = ModuleType("openrlhf.models")
    package.__path__ = [f"{location}/models" for location in spec.submodule_search_locations]
    sys.modules["openrlhf.models"] = package


if "openrlhf.models" not in sys.modules and importlib.util.find_spec("flash_attn") is None:
    _enter_bare_package()

# OpenRLHF ships no type stubs.
from openrlhf.models.loss import PolicyLoss, aggregate_loss  # noqa: E402 # pyright: ignore[reportMissingTypeStubs]
from openrlhf.models.utils import compute_approx_kl, masked_mean  # noqa: E402 # pyright: ignore[reportMissingTypeStubs]

__all__ = ["PolicyLoss", "aggregate_loss", "compute_approx_kl", "masked_mean"]
