"""Work, time and refusals by hand."""

from __future__ import annotations

import dataclasses

import pytest

from rubric_rl.config.compose import compose
from rubric_rl.errors import ConfigError
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.engine_memory import engine_memory, rollout_engine
from rubric_rl.planning.hardware import (
    Cluster,
    Gpu,
    Node,
    cluster_of_ray,
    gpu_named,
    gpu_of_label,
)
from rubric_rl.planning.model_shape import ModelShape
from rubric_rl.planning.plan_text import plan_lines
from rubric_rl.planning.timing import decode_step, step_time
from rubric_rl.planning.workload import evaluations, prompts_drawn, workload

from .builders import figures, node_of, paper, plan_of


def test_the_steps_and_tokens_of_the_paper():
    work = workload(paper(), figures(), Assumptions())
    assert work.steps == 106 and work.samples_per_step == 1536
    assert work.tokens_per_step == 1536 * 3000
    # Steps 0, 20, .., 100 and 106.
    assert work.evaluations == 7 and work.samples_per_evaluation == 1000
    # Two epochs of 5000 prompts, whose last steps have 8 only.
    assert work.generated == (2 * 5000 * 16 + 7 * 1000) * 2000
    assert work.judging_per_step.calls == 1536
    assert work.judging.usd == pytest.approx(167_000 * 0.001)


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 96), (52, 4992), (53, 5000), (54, 5096), (106, 10_000)]
)
def test_the_last_step_of_an_epoch_takes_what_is_left(steps: int, expected: int):
    assert prompts_drawn(paper(), 5000, steps) == expected


@pytest.mark.parametrize(("steps", "expected"), [(20, 2), (21, 3), (19, 2), (40, 3)])
def test_an_evaluation_comes_first_last_and_between(steps: int, expected: int):
    assert evaluations(paper(), steps) == expected


def test_packing_puts_a_shared_prompt_through_the_learner_once():
    work = workload(paper("learner.packing=true"), figures(), Assumptions())
    assert work.tokens_per_step == 96 * 1000 + 1536 * 2000


def test_refinement_judges_its_answers_again_and_pays_for_proposals():
    config = paper("refinement=llm", "refinement.refine_eval=false")
    work = workload(config, figures(), Assumptions())
    # Once, after the first of two epochs: 5000 prompts x 4 rounds.
    assert work.proposals == 20_000
    # gpt-4.1: 4000 tokens at 2 and 1500 at 8 USD a million.
    assert work.proposals_usd == pytest.approx(20_000 * 0.02)
    # 16 answers, under the first rubric and each proposal.
    assert work.judging.calls == 167_000 + 5000 * 5 * 16


def test_a_decoding_step_is_bound_by_bandwidth_or_by_arithmetic(qwen: ModelShape):
    engine = engine_memory(rollout_engine(paper(), qwen), Assumptions(), 80.0)
    gpu = Gpu(name="x", memory_gib=80, tflops=1000, bandwidth_gbs=2000)
    weights = 2 * qwen.num_parameters
    one = decode_step(engine, 1, 1000, gpu, Assumptions())
    assert one.seconds == pytest.approx((weights + 147_456_000) / (2e12 * 0.6) + 0.004)
    slow = dataclasses.replace(gpu, tflops=1.0)
    hundred = decode_step(engine, 100, 1000, slow, Assumptions())
    assert hundred.seconds == pytest.approx(weights * 100 / (1e12 * 0.5) + 0.004)


def test_a_learner_takes_two_operations_for_each_weight_and_pass(qwen: ModelShape):
    config = paper()
    work = workload(config, figures(), Assumptions())
    engine = engine_memory(rollout_engine(config, qwen), Assumptions(), 80.0)
    time = step_time(config, qwen, work, engine, gpu_named("h100"), Assumptions())
    assert time is not None
    learner = next(part for part in time.parts if part.what == "learner")
    # All but the embedding; forward 2, backward 4, recomputation 2, reference 2.
    flop = (qwen.num_parameters - 151_936 * 4096) * 1536 * 3000 * 10
    assert learner.seconds == pytest.approx(flop / (8 * 989e12 * 0.4))


def test_generation_that_runs_ahead_hides_the_shorter_part(qwen: ModelShape):
    ahead = paper("cluster=gpu_disaggregated", "algorithm.max_staleness=1")
    plan = plan_of(ahead, qwen, node_of("h100", nodes=2))
    assert plan.time is not None and plan.time.overlaps
    seconds = {part.what: part.seconds for part in plan.time.parts}
    generation = seconds["rollout"] + seconds["judge wait"]
    assert plan.time.seconds == max(generation, seconds["learner"]) + seconds["weight sync"]


def test_the_papers_run_fits_one_node_of_h100(qwen: ModelShape):
    plan = plan_of(paper(), qwen, node_of("h100"))
    assert plan.problems == ()
    text = "\n".join(plan_lines(plan))
    assert "8,190,735,360 parameters" in text
    assert "2 B x 8.19e9 / 8 ranks" in text
    assert "147,456 B (2 x 36 layers x 8 heads x 128 x 2 B)" in text


def test_what_does_not_fit_is_refused_with_what_to_change(qwen: ModelShape):
    (learner, starting) = plan_of(paper("learner=zero2"), qwen, node_of("l40s")).problems
    assert "a learner rank needs" in learner and "learner=zero3" in learner
    assert "while engines start" in starting
    crowded = plan_of(paper("rollout.gpu_memory_utilization=0.8"), qwen, node_of("h100"))
    # 79.1 GiB less the learner's 19.6 are 75 %.
    assert len(crowded.problems) == 1 and "lower it to 0.75" in crowded.problems[0]
    small = plan_of(paper("rollout.gpu_memory_utilization=0.2"), qwen, node_of("h100"))
    assert any("left for KV cache" in problem for problem in small.problems)


def test_host_memory_of_a_node_is_checked(qwen: ModelShape):
    assert plan_of(paper(), qwen, node_of("h100", memory_gib=1000)).problems == ()
    (problem,) = plan_of(paper(), qwen, node_of("h100", memory_gib=100)).problems
    assert "run.checkpoint_writing=sync" in problem


def test_a_cpu_run_must_fit_the_memory_of_its_machine(qwen: ModelShape):
    config = compose(["experiment=quickstart_cpu", "run.dir=runs/x"])
    here = Cluster(nodes=(Node(cpus=2, gpus=0, memory_gib=24.0),), gpu=None, source="a test")
    (problem,) = plan_of(config, qwen, here).problems
    assert "1 learner ranks" in problem and "there are 24.0" in problem


def test_a_gpu_of_unknown_memory_is_refused_and_of_unknown_rates_is_not_timed(qwen: ModelShape):
    nodes = (Node(cpus=64, gpus=8),)
    unknown = Gpu(name="new", memory_gib=None, tflops=None, bandwidth_gbs=None)
    plan = plan_of(paper(), qwen, Cluster(nodes=nodes, gpu=unknown, source="a test"))
    assert "--gpu-memory-gib" in plan.problems[0]
    sized = dataclasses.replace(unknown, memory_gib=100.0)
    plan = plan_of(paper(), qwen, Cluster(nodes=nodes, gpu=sized, source="a test"))
    assert plan.problems == () and plan.time is None and plan.run_s is None


def test_a_cost_above_the_budget_is_told(qwen: ModelShape):
    plan = plan_of(paper("judge.budget.max_cost_usd=5"), qwen, node_of("h100"))
    assert any("judge.budget.max_cost_usd=5" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("label", "memory", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 79.6, "h100"),
        ("NVIDIA A100-SXM4-40GB", 40.0, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 80.0, "a100"),
        ("A100-40G", None, "a100-40gb"),
        ("H200", None, "h200"),
        ("NVIDIA L4", 22.5, "l4"),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(label: str, memory: float | None, name: str):
    assert gpu_of_label(label, memory).name == name


def test_gpus_that_nobody_knows_keep_what_is_known():
    assert gpu_of_label("NVIDIA X9", 50.0) == Gpu(
        name="NVIDIA X9", memory_gib=50.0, tflops=None, bandwidth_gbs=None
    )
    with pytest.raises(ConfigError, match="h100"):
        gpu_named("x9")


def test_a_cluster_of_ray_is_read_from_its_resources():
    gib = 2.0**30
    gpu_node = {
        "CPU": 96.0,
        "GPU": 8.0,
        "accelerator_type:H100": 1.0,
        "memory": 700 * gib,
        "object_store_memory": 300 * gib,
    }
    cluster = cluster_of_ray([gpu_node, {"CPU": 16.0}], "head:6379")
    assert cluster.nodes == (
        Node(cpus=96.0, gpus=8, memory_gib=1000.0),
        Node(cpus=16.0, gpus=0),
    )
    assert cluster.gpu == gpu_named("h100")
    assert cluster.resources == {"CPU": 112.0, "GPU": 8.0}
    assert cluster_of_ray([{"CPU": 2.0}], "x").gpu is None
