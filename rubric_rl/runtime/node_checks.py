"""Asks every node of a Ray cluster the same question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeAnswer(Generic[T]):
    """What one node said."""

    address: str
    answer: T | None
    """None where it failed."""
    problem: str | None = None
    """Why there is no answer."""


def on_each_node(question: Callable[[], T], timeout_s: float) -> list[NodeAnswer[T]]:
    """Call `question` on every live node of the joined cluster that has CPUs, all at once.

    A node that fails or says nothing for `timeout_s` is an answer with its problem.
    """
    # One without CPUs, such as the head that KubeRay makes, gets no worker.
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    nodes.sort(key=lambda node: node["NodeManagerAddress"])
    asked = [_ask(node["NodeID"], question) for node in nodes]
    if not asked:
        return []
    done, _ = ray.wait(asked, num_returns=len(asked), timeout=timeout_s)
    answers: list[NodeAnswer[T]] = []
    for node, reference in zip(nodes, asked, strict=True):
        address = node["NodeManagerAddress"]
        if reference not in done:
            ray.cancel(reference, force=True)
            answers.append(NodeAnswer(address, None, f"no answer in {timeout_s:g} s"))
        else:
            answers.append(_answer(address, reference))
    return answers


def _ask(node_id: str, question: Callable[[], T]) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task: Any = ray.remote(_call)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(question)


def _call(question: Callable[[], T]) -> T:
    return question()


def _answer(address: str, reference: Any) -> NodeAnswer[Any]:
    try:
        return NodeAnswer(address, ray.get(reference))
    except RayError as err:
        # Ray's text is the remote traceback, whose last line names what was raised.
        return NodeAnswer(address, None, str(err).strip().splitlines()[-1])
