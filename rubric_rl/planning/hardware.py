"""The cluster that a plan is made for: GPUs by name, nodes, totals.

Memory is what the driver leaves of it, as torch reports it; the rates are those of
NVIDIA's data sheets, bfloat16 on tensor cores without sparsity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubric_rl.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU. None: not known."""

    name: str
    memory_gib: float | None
    tflops: float | None
    """Dense bfloat16, 10^12 operations a second."""
    bandwidth_gbs: float | None
    """Of its memory, 10^9 bytes a second."""


def _gpu(name: str, memory_gib: float, tflops: float, bandwidth_gbs: float) -> Gpu:
    return Gpu(name=name, memory_gib=memory_gib, tflops=tflops, bandwidth_gbs=bandwidth_gbs)


_GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100", 79.2, 312, 2039),
        _gpu("a100-40gb", 39.4, 312, 1555),
        _gpu("h100", 79.1, 989, 3350),
        _gpu("h200", 139.7, 989, 4800),
        _gpu("b200", 178.3, 2250, 8000),
        _gpu("l40s", 44.4, 362, 864),
        _gpu("l4", 22.0, 121, 300),
        _gpu("a10g", 22.0, 70, 600),
    )
}


def gpu_named(name: str) -> Gpu:
    """A GPU by its short name. Raises ConfigError."""
    if name.lower() not in _GPUS:
        raise ConfigError(
            f"--gpu {name!r} is not known: choose {', '.join(_GPUS)}, or describe it with "
            "--gpu-memory-gib, --gpu-tflops and --gpu-bandwidth-gbs"
        )
    return _GPUS[name.lower()]


def gpu_of_label(label: str, memory_gib: float | None = None) -> Gpu:
    """A GPU by the name that a driver or Ray gives it, as in `NVIDIA H100 80GB HBM3` or `H100`.

    `memory_gib` is what the driver says; it decides between variants. What isn't known
    stays unknown.
    """
    words = re.sub(r"[^a-z0-9]+", " ", label.lower()).split()
    matches = [gpu for gpu in _GPUS.values() if gpu.name.split("-")[0] in words]
    if memory_gib is None and "40g" in label.lower().replace(" ", ""):
        memory_gib = _GPUS["a100-40gb"].memory_gib
    if not matches:
        return Gpu(name=label, memory_gib=memory_gib, tflops=None, bandwidth_gbs=None)
    if memory_gib is None:
        return matches[0]
    given = memory_gib
    return min(matches, key=lambda gpu: abs((gpu.memory_gib or 0.0) - given))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine."""

    cpus: float
    gpus: int
    memory_gib: float | None = None
    """Of the host; None: not known."""

    @property
    def resources(self) -> dict[str, float]:
        """By Ray's names."""
        return {"CPU": self.cpus, "GPU": float(self.gpus)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What there is to run on."""

    nodes: tuple[Node, ...]
    gpu: Gpu | None
    """The kind of all GPUs; of several kinds the smallest. None: there are none."""
    source: str
    """Where this is known from, in words."""

    @property
    def resources(self) -> dict[str, float]:
        """Totals by Ray's names."""
        return {
            "CPU": sum(node.cpus for node in self.nodes),
            "GPU": float(sum(node.gpus for node in self.nodes)),
        }

    def describe(self) -> str:
        """One line."""
        kinds = list(dict.fromkeys(self.nodes))
        parts = [f"{self.nodes.count(node)} x {_of_node(node, self.gpu)}" for node in kinds]
        return f"{', '.join(parts)} ({self.source})"


def _of_node(node: Node, gpu: Gpu | None) -> str:
    parts = [f"{node.cpus:g} CPUs"]
    if node.gpus and gpu is not None:
        memory = "memory not known" if gpu.memory_gib is None else f"{gpu.memory_gib:g} GiB"
        parts.insert(0, f"{node.gpus} {gpu.name} of {memory}")
    if node.memory_gib is not None:
        parts.append(f"{node.memory_gib:.0f} GiB of host memory")
    return f"node ({', '.join(parts)})"


_LABEL = "accelerator_type:"
_RAY_MEMORY = ("memory", "object_store_memory")


def cluster_of_ray(nodes: Sequence[Mapping[str, float]], address: str) -> Cluster:
    """The cluster that Ray has joined, from its nodes' resources.

    Its two kinds of memory together are what was free on the machine when Ray started.
    """
    labels = sorted(
        {key.removeprefix(_LABEL) for n in nodes for key in n if key.startswith(_LABEL)}
    )
    gpus = [gpu_of_label(label) for label in labels]
    has_gpus = any(node.get("GPU", 0.0) for node in nodes)
    smallest = min(gpus, key=lambda gpu: gpu.memory_gib or 0.0, default=None)
    if has_gpus and smallest is None:
        smallest = Gpu(name="GPU", memory_gib=None, tflops=None, bandwidth_gbs=None)
    return Cluster(
        nodes=tuple(
            Node(
                cpus=node.get("CPU", 0.0),
                gpus=int(node.get("GPU", 0.0)),
                memory_gib=sum(node[key] for key in _RAY_MEMORY if key in node) / GIB or None,
            )
            for node in nodes
        ),
        gpu=smallest if has_gpus else None,
        source=f"the cluster at {address}",
    )
