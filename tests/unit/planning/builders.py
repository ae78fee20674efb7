"""The paper's health run, described nodes, and figures that are easy to multiply."""

from __future__ import annotations

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.hardware import Cluster, Node, gpu_named
from rubric_rl.planning.model_shape import ModelShape
from rubric_rl.planning.plan import Models, TrainingPlan, make_plan
from rubric_rl.planning.workload import JudgeCalls, PromptFigures

ONE_CALL = JudgeCalls(calls=1, prompt_tokens=1000, reply_tokens=100, usd=0.001)


def paper(*overrides: str) -> Config:
    return compose(["experiment=paper_health", "run.dir=runs/x", *overrides])


def node_of(gpu: str, *, nodes: int = 1, memory_gib: float | None = None) -> Cluster:
    return Cluster(
        nodes=(Node(cpus=64, gpus=8, memory_gib=memory_gib),) * nodes,
        gpu=gpu_named(gpu),
        source="a test",
    )


def figures(num_train: int = 5000, num_eval: int = 1000) -> PromptFigures:
    return PromptFigures(
        num_train=num_train,
        num_eval=num_eval,
        prompt_tokens=1000,
        completion_tokens=2000,
        per_sample=ONE_CALL,
        source="a test",
    )


def plan_of(config: Config, shape: ModelShape, cluster: Cluster) -> TrainingPlan:
    return make_plan(config, Models(policy=shape), cluster, figures(), Assumptions())
