"""A question to each node of a real Ray."""

from __future__ import annotations

import os
import time
from functools import partial

import ray

from rubric_rl.runtime.node_checks import on_each_node


def test_each_node_answers_in_a_process_of_its_own(cluster: None) -> None:
    (node,) = on_each_node(os.getpid, 60.0)
    assert node.problem is None and node.answer not in (None, os.getpid())
    assert node.address == ray.nodes()[0]["NodeManagerAddress"]


def test_what_a_node_raises_is_its_problem(cluster: None) -> None:
    (node,) = on_each_node(partial(int, "none"), 60.0)
    assert node.answer is None and "ValueError: invalid literal" in str(node.problem)


def test_a_node_that_hangs_is_not_waited_for(cluster: None) -> None:
    began = time.monotonic()
    (node,) = on_each_node(lambda: time.sleep(60), 1.0)
    assert node.problem == "no answer in 1 s" and time.monotonic() - began < 30
