"""Plans worked out by hand, and properties that hold for every plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.errors import PlacementError
from rubric_rl.runtime.placement import (
    PlacementPlan,
    bind_to_nodes,
    check_plan,
    describe,
    plan_learners,
    plan_placement,
    threads_per_worker,
)

BASE = compose(["cluster=gpu_disaggregated"]).model_dump()


def make_plan(
    *,
    device: str = "gpu",
    placement: str = "disaggregated",
    ranks: int = 1,
    engines: int = 1,
    tensor_parallel_size: int = 1,
    judges: int = 1,
    hosted: dict[str, int] | None = None,
    references: int = 0,
) -> PlacementPlan:
    """A plan with 2 CPUs for a rank, 1 for an engine and 0.1 for a judge.

    `hosted`: settings of a judge whose servers the run starts, 1 CPU each.
    """
    raw = {name: dict(section) for name, section in BASE.items()}
    raw["cluster"] |= {"device": device, "placement": placement}
    raw["cluster"] |= {"learner_cpus": 2.0, "rollout_cpus": 1.0, "judge_cpus": 0.1}
    raw["learner"] |= {"num_workers": ranks}
    raw["rollout"] |= {"num_workers": engines, "tensor_parallel_size": tensor_parallel_size}
    raw["judge"] |= {"num_workers": judges}
    if references:
        raw["learner"] |= {"reference": "actor", "reference_workers": references}
    if hosted is not None:
        raw["judge"]["llm"] = {"backend": "vllm", "model": "judge", "hosted": hosted}
    return plan_placement(Config.model_validate(raw))


def layout(plan: PlacementPlan) -> list[tuple[float, int, list[str]]]:
    """CPUs, GPUs and workers of each bundle."""
    return [
        (bundle.cpus, bundle.gpus, [actor.label for actor in plan.on(index)])
        for index, bundle in enumerate(plan.bundles)
    ]


def refusal(plan: PlacementPlan, *nodes: dict[str, float]) -> str:
    totals = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    with pytest.raises(PlacementError) as caught:
        check_plan(plan, totals, nodes)
    return str(caught.value)


# ----------------------------------------------------------------------------
# Layouts


def test_a_hosted_judges_servers_have_bundles_and_gpus_of_their_own() -> None:
    plan = make_plan(hosted={"num_engines": 2, "tensor_parallel_size": 4})
    assert layout(plan)[2:] == [
        (0.1, 0, ["judge 0"]),
        (1.0, 4, ["judge server 0"]),
        (1.0, 4, ["judge server 1"]),
    ]
    assert plan.workers == "1 learner rank, 1 rollout worker, 1 judge worker, 2 judge servers"


@pytest.mark.parametrize("placement", ["disaggregated", "colocated"])
def test_reference_workers_have_bundles_and_gpus_of_their_own(placement: str) -> None:
    plan = make_plan(placement=placement, references=2)
    assert layout(plan)[-3:] == [
        (2.0, 1, ["reference 0"]),
        (2.0, 1, ["reference 1"]),
        (0.1, 0, ["judge 0"]),
    ]
    assert plan.workers == "1 learner rank, 2 reference workers, 1 rollout worker, 1 judge worker"
    text = refusal(plan, {"CPU": 99.0, "GPU": 2.0})
    assert "2 reference workers x 1 GPU" in text
    assert "learner.reference_workers (2)" in text


@pytest.mark.parametrize(("device", "gpus"), [("gpu", 1), ("cpu", 0)])
def test_judges_that_host_a_reward_model_have_a_device_each(device: str, gpus: int) -> None:
    raw = {name: dict(section) for name, section in BASE.items()}
    raw["cluster"] |= {"device": device, "judge_cpus": 0.5}
    raw["judge"] |= {"num_workers": 2, "reward_model": {"path": "m"}}
    plan = plan_placement(Config.model_validate(raw))
    assert layout(plan)[2:] == [(0.5, gpus, ["judge 0"]), (0.5, gpus, ["judge 1"])]
    assert [actor.gpus for actor in plan.of("judge")] == [gpus, gpus]
    # Of a GPU node an engine may need all; a judge that holds none goes anywhere.
    assert plan.groups.get("SPREAD", ()) == (() if gpus else (2, 3))


def test_a_supervised_baseline_has_learner_ranks_and_nothing_else() -> None:
    raw = {name: dict(section) for name, section in BASE.items()}
    raw["cluster"] |= {"learner_cpus": 2.0}
    raw["learner"] |= {"num_workers": 2}
    plan = plan_learners(Config.model_validate(raw))
    assert layout(plan) == [(2.0, 1, ["learner 0"]), (2.0, 1, ["learner 1"])]
    assert plan.workers == "2 learner ranks"


def test_a_hosted_judge_on_cpu_reserves_cores_only() -> None:
    plan = make_plan(device="cpu", hosted={"num_engines": 1})
    assert layout(plan)[-1] == (1.0, 0, ["judge server 0"])


def test_a_cluster_without_gpus_for_the_judges_servers_is_refused_with_the_sum() -> None:
    plan = make_plan(hosted={"num_engines": 2, "tensor_parallel_size": 4})
    assert refusal(plan, {"CPU": 64.0, "GPU": 8.0}) == (
        "1 learner rank x 1 GPU + 1 rollout worker x 1 GPU + 2 judge servers x 4 GPUs = 10 GPUs, "
        "the cluster has 8: lower judge.llm.hosted.num_engines (2), rollout.num_workers (1) or "
        "learner.num_workers (1)"
    )


def test_disaggregated_workers_have_a_bundle_each() -> None:
    plan = make_plan(ranks=2, engines=1, tensor_parallel_size=2)
    assert layout(plan) == [
        (2.0, 1, ["learner 0"]),
        (2.0, 1, ["learner 1"]),
        (1.0, 2, ["rollout 0"]),
        (0.1, 0, ["judge 0"]),
    ]
    assert [actor.gpus for actor in plan.of("rollout")] == [2]
    assert plan.same_node == ()


def test_disaggregated_on_cpu_takes_no_gpus() -> None:
    plan = make_plan(device="cpu", ranks=1, engines=2)
    assert [bundle.gpus for bundle in plan.bundles] == [0, 0, 0, 0]
    assert [bundle.cpus for bundle in plan.bundles] == [2.0, 1.0, 1.0, 0.1]


def test_colocated_engines_share_the_gpus_that_learner_ranks_hold() -> None:
    plan = make_plan(placement="colocated", ranks=4, engines=2, tensor_parallel_size=2, judges=2)
    assert layout(plan) == [
        (3.0, 1, ["learner 0", "rollout 0"]),
        (3.0, 1, ["learner 1", "rollout 0"]),
        (3.0, 1, ["learner 2", "rollout 1"]),
        (3.0, 1, ["learner 3", "rollout 1"]),
        (0.1, 0, ["judge 0"]),
        (0.1, 0, ["judge 1"]),
    ]
    assert [actor.gpus for actor in plan.of("learner")] == [1, 1, 1, 1]
    assert [actor.gpus for actor in plan.of("rollout")] == [0, 0]
    assert plan.same_node == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    ("ranks", "engines", "expected"),
    [
        (
            1,
            3,
            [
                (3.0, 0, ["learner 0", "rollout 0"]),
                (1.0, 0, ["rollout 1"]),
                (1.0, 0, ["rollout 2"]),
            ],
        ),
        (2, 1, [(3.0, 0, ["learner 0", "rollout 0"]), (2.0, 0, ["learner 1"])]),
    ],
)
def test_colocated_on_cpu_needs_no_equal_numbers(
    ranks: int, engines: int, expected: list[tuple[float, int, list[str]]]
) -> None:
    plan = make_plan(device="cpu", placement="colocated", ranks=ranks, engines=engines)
    assert layout(plan)[:-1] == expected


def test_resources_name_gpus_only_where_there_are_any() -> None:
    plan = make_plan()
    assert plan.bundles[0].resources == {"CPU": 2.0, "GPU": 1.0}
    assert plan.bundles[-1].resources == {"CPU": 0.1}


sizes = st.integers(min_value=1, max_value=4)


@given(
    device=st.sampled_from(["cpu", "gpu"]),
    placement=st.sampled_from(["disaggregated", "colocated"]),
    ranks=sizes,
    engines=sizes,
    size=sizes,
    judges=sizes,
)
def test_every_plan_gives_each_actor_what_it_asks_for(
    device: str, placement: str, ranks: int, engines: int, size: int, judges: int
) -> None:
    size = size if device == "gpu" else 1
    ranks = engines * size if (device, placement) == ("gpu", "colocated") else ranks
    plan = make_plan(
        device=device,
        placement=placement,
        ranks=ranks,
        engines=engines,
        tensor_parallel_size=size,
        judges=judges,
    )
    counts = [len(plan.of(role)) for role in ("learner", "rollout", "judge")]
    assert counts == [ranks, engines, judges]
    for index, bundle in enumerate(plan.bundles):
        hosted = [actor for actor in plan.actors if actor.bundles[0] == index]
        assert sum(actor.cpus for actor in hosted) <= bundle.cpus + 1e-9
        assert sum(actor.gpus for actor in hosted) <= bundle.gpus
    assert all(actor.gpus == 0 for actor in plan.of("judge"))
    used = [index for actor in plan.of("rollout") for index in actor.bundles]
    assert len(used) == len(set(used)), "no two engines share a bundle"


# ----------------------------------------------------------------------------
# Checks


def test_more_gpus_than_the_cluster_has_are_refused_with_the_sum() -> None:
    plan = make_plan(ranks=8, engines=4, tensor_parallel_size=2)
    assert refusal(plan, {"CPU": 64, "GPU": 8}) == (
        "8 learner ranks x 1 GPU + 4 rollout workers x 2 GPUs = 16 GPUs, the cluster has 8: lower "
        "rollout.num_workers (4), rollout.tensor_parallel_size (2) or learner.num_workers (8)"
    )


def test_more_cpus_than_the_cluster_has_are_refused_with_the_sum() -> None:
    plan = make_plan(device="cpu", ranks=2, engines=1, judges=3)
    assert refusal(plan, {"CPU": 4}) == (
        "2 learner ranks x 2 CPUs + 1 rollout worker x 1 CPU + 3 judge workers x 0.1 CPUs = "
        "5.3 CPUs, the cluster has 4: lower rollout.num_workers (1) or learner.num_workers (2), "
        "or what each reserves (cluster.learner_cpus, cluster.rollout_cpus or cluster.judge_cpus)"
    )


def test_colocated_gpus_are_lowered_together() -> None:
    plan = make_plan(placement="colocated", ranks=8, engines=8)
    assert refusal(plan, {"CPU": 64, "GPU": 4}) == (
        "8 shared bundles x 1 GPU = 8 GPUs, the cluster has 4: lower rollout.num_workers (8) and "
        "learner.num_workers (8) together"
    )


def test_every_sum_that_does_not_add_up_is_listed() -> None:
    lines = refusal(make_plan(ranks=2), {"CPU": 1, "GPU": 1}).split("\n")
    assert [("GPUs, the cluster" in line, "CPUs, the cluster" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]


def test_a_cluster_without_gpus_has_none() -> None:
    assert "2 GPUs, the cluster has 0" in refusal(make_plan(), {"CPU": 64})


def test_tenths_of_a_cpu_add_up_exactly() -> None:
    plan = make_plan(device="cpu", ranks=1, engines=1, judges=3)
    # 0.1 + 0.1 + 0.1 > 0.3 in binary floating point
    check_plan(plan, {"CPU": 3.3})
    with pytest.raises(PlacementError):
        check_plan(plan, {"CPU": 3.2999})


def test_a_bundle_must_fit_one_node() -> None:
    plan = make_plan(tensor_parallel_size=4)
    assert refusal(plan, *[{"CPU": 8, "GPU": 2}] * 4) == (
        "one rollout worker needs 1 CPU and 4 GPUs on one node, but no node has them "
        "(8 CPUs, 2 GPUs): lower rollout.tensor_parallel_size or the CPUs that each reserves "
        "(cluster.*_cpus)"
    )


def test_the_bundles_of_one_colocated_engine_must_fit_one_node() -> None:
    plan = make_plan(placement="colocated", ranks=4, engines=1, tensor_parallel_size=4)
    assert refusal(plan, *[{"CPU": 64, "GPU": 2}] * 2).startswith(
        "one engine with the learner ranks on its GPUs needs 12 CPUs and 4 GPUs on one node"
    )
    check_plan(plan, {"CPU": 64, "GPU": 4}, [{"CPU": 64, "GPU": 4}])


def test_gpus_that_are_too_scattered_for_whole_engines_are_refused() -> None:
    # 2 nodes x 8 GPUs hold 2 x 2 engines of 3, though 1 + 5 x 3 = 16 GPUs would do.
    plan = make_plan(ranks=1, engines=5, tensor_parallel_size=3)
    assert refusal(plan, *[{"CPU": 64, "GPU": 8}] * 2) == (
        "rollout.num_workers=5 engines of rollout.tensor_parallel_size=3 GPUs each on one node, "
        "but nodes of 8 + 8 GPUs hold 4: lower one of them"
    )


# ----------------------------------------------------------------------------
# Binding to the nodes that Ray chose


def test_engines_are_regrouped_so_that_each_is_on_one_node() -> None:
    plan = make_plan(placement="colocated", ranks=4, engines=2, tensor_parallel_size=2)
    bound = bind_to_nodes(plan, ["a", "b", "a", "b", "b"])
    assert [actor.bundles for actor in bound.of("rollout")] == [(0, 2), (1, 3)]
    assert [actor.bundles for actor in bound.of("learner")] == [(0,), (2,), (1,), (3,)]
    assert [actor.bundles for actor in bound.of("judge")] == [(4,)]


def test_engine_j_keeps_its_ranks_when_regrouped() -> None:
    plan = make_plan(placement="colocated", ranks=6, engines=2, tensor_parallel_size=3)
    bound = bind_to_nodes(plan, ["a", "b", "b", "a", "b", "a", "a"])
    ranks = [actor.bundles[0] for actor in bound.of("learner")]
    assert [list(actor.bundles) for actor in bound.of("rollout")] == [ranks[:3], ranks[3:]]


def test_nodes_that_split_an_engine_are_refused() -> None:
    plan = make_plan(placement="colocated", ranks=4, engines=2, tensor_parallel_size=2)
    with pytest.raises(PlacementError) as caught:
        bind_to_nodes(plan, ["a", "a", "a", "b", "b"])
    assert str(caught.value) == (
        "the 4 shared GPUs came to lie on 2 nodes as 3 + 1, which doesn't divide into engines of "
        "rollout.tensor_parallel_size=2 GPUs on one node: wait until whole nodes are free, or "
        "lower rollout.tensor_parallel_size"
    )


def test_a_plan_without_split_engines_is_bound_as_it_is() -> None:
    plan = make_plan(ranks=2, engines=1, tensor_parallel_size=2)
    assert bind_to_nodes(plan, ["a", "b", "c", "d"]) is plan


# ----------------------------------------------------------------------------
# The table


def test_the_table_has_a_line_for_each_bundle_and_the_sums() -> None:
    plan = make_plan(placement="colocated", ranks=1, engines=1)
    assert describe(plan).split("\n") == [
        "placement: colocated, 2 bundles",
        "bundle    CPUs  GPUs  nodes   workers",
        "     0       3     1  pack    learner 0, rollout 0",
        "     1     0.1     0  spread  judge 0",
        "1 shared bundle x 3 CPUs + 1 judge worker x 0.1 CPUs = 3.1 CPUs",
        "1 shared bundle x 1 GPU = 1 GPU",
    ]


# ----------------------------------------------------------------------------
# Packed and spread


def test_judges_are_spread_and_all_else_is_packed() -> None:
    plan = make_plan(ranks=2, engines=1, judges=3)
    assert plan.groups == {"PACK": (0, 1, 2), "SPREAD": (3, 4, 5)}


# ----------------------------------------------------------------------------
# Threads


def test_workers_of_one_node_share_its_cpus() -> None:
    plan = make_plan(ranks=4, engines=1, judges=1)
    nodes = ["a", "a", "a", "b", "b", "head"]
    cpus = {"a": 12.0, "b": 64.0, "head": 2.0}
    # Three ranks have 4 each on a, and the one on b has no more than they.
    assert threads_per_worker(plan, "learner", nodes, cpus) == 4
    assert threads_per_worker(plan, "rollout", nodes, cpus) == 64
    assert threads_per_worker(plan, "judge", nodes, cpus) == 2
    assert threads_per_worker(plan, "reference", nodes, cpus) == 1


def test_a_worker_has_a_thread_where_there_are_too_few_cpus() -> None:
    plan = make_plan(ranks=2, engines=1, judges=1)
    assert threads_per_worker(plan, "learner", ["a"] * 4, {"a": 1.0}) == 1
