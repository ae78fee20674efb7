"""Which worker goes where: bundles of CPUs and GPUs, and the actors in them.

    disaggregated          [learner 0: GPU] [learner 1: GPU] [rollout 0: 2 GPUs] [judge 0]
    with a hosted judge    ... [judge 0] [judge server 0: GPU]
    colocated on GPU       [learner 0 | rollout 0: GPU] [learner 1 | rollout 0: GPU] [judge 0]
    colocated on CPU       [learner 0 | rollout 0] [rollout 1] [judge 0]

A plan is worked out from the configuration alone and checked against a
cluster's resources before any actor starts. Nothing here knows Ray.

Ray keeps a bundle on one node but may split a placement group anywhere. Judges
without a GPU are spread over the nodes, since they share their node's network
and cores with whatever runs there; all else is packed on as few as possible. The
bundles of a colocated engine with tensor parallelism must share a node; once
Ray has placed them, `bind_to_nodes` hands out actors accordingly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rubric_rl.config.schema import Config
from rubric_rl.errors import PlacementError

Role = Literal["learner", "reference", "rollout", "judge", "judge_server"]
Resource = Literal["CPU", "GPU"]
Strategy = Literal["PACK", "SPREAD"]

# Ray counts resources in whole 1/10000: sums in that unit are exact.
_UNITS = 10_000
_NOUNS: dict[Role, str] = {
    "learner": "learner rank",
    "reference": "reference worker",
    "rollout": "rollout worker",
    "judge": "judge worker",
    "judge_server": "judge server",
}
_SHARED = "shared bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Resources that Ray reserves together on one node."""

    cpus: float
    gpus: int
    noun: str
    """What it is for, in messages."""
    strategy: Strategy = "PACK"
    """`PACK`: with the others on as few nodes as possible. `SPREAD`: on as many."""

    @property
    def resources(self) -> dict[str, float]:
        """As Ray takes it: no entry for what isn't reserved."""
        return {"CPU": self.cpus, "GPU": float(self.gpus)} if self.gpus else {"CPU": self.cpus}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedActor:
    """One worker, the bundles that it lives on, and what it asks of them for itself."""

    role: Role
    index: int
    """Learner rank, or number of the rollout or judge worker."""
    bundles: tuple[int, ...]
    """Indices of its bundles; its process is in the first."""
    cpus: float
    gpus: int
    """0 for a colocated engine: it uses the GPUs that the learner ranks of its bundles hold."""

    @property
    def label(self) -> str:
        """As in `rollout 3`."""
        return f"{self.role.replace('_', ' ')} {self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPlan:
    """The bundles, in the order that actors name them by."""

    placement: Literal["disaggregated", "colocated"]
    bundles: tuple[Bundle, ...]
    actors: tuple[PlacedActor, ...]
    tensor_parallel_size: int

    def of(self, role: Role) -> tuple[PlacedActor, ...]:
        """The actors of one role, by index."""
        return tuple(actor for actor in self.actors if actor.role == role)

    def on(self, bundle: int) -> tuple[PlacedActor, ...]:
        """The actors that use a bundle."""
        return tuple(actor for actor in self.actors if bundle in actor.bundles)

    @property
    def workers(self) -> str:
        """As in `1 learner rank, 1 rollout worker, 2 judge workers`."""
        counts = [(len(self.of(role)), noun) for role, noun in _NOUNS.items()]
        return ", ".join(_counted(count, noun) for count, noun in counts if count)

    @property
    def groups(self) -> dict[Strategy, tuple[int, ...]]:
        """Bundles by strategy: Ray reserves each kind as a placement group of its own."""
        found: dict[Strategy, list[int]] = {}
        for index, bundle in enumerate(self.bundles):
            found.setdefault(bundle.strategy, []).append(index)
        return {strategy: tuple(indices) for strategy, indices in found.items()}

    @property
    def same_node(self) -> tuple[tuple[int, ...], ...]:
        """Sets of bundles that must be on one node: engines that span more than one."""
        return tuple(actor.bundles for actor in self.actors if len(actor.bundles) > 1)


def plan_placement(config: Config) -> PlacementPlan:
    """Lay out the workers that `config` asks for."""
    if config.cluster.placement == "disaggregated":
        bundles, actors = _disaggregated(config)
    elif config.cluster.device == "gpu":
        bundles, actors = _colocated_gpu(config)
    else:
        bundles, actors = _colocated_cpu(config)
    _add_reference(config, bundles, actors)
    _add_judges(config, bundles, actors)
    return PlacementPlan(
        placement=config.cluster.placement,
        bundles=tuple(bundles),
        actors=tuple(actors),
        tensor_parallel_size=config.rollout.tensor_parallel_size,
    )


def plan_learners(config: Config) -> PlacementPlan:
    """The learner ranks alone: SFT and reward models generate and judge nothing."""
    cpus, gpus = config.cluster.learner_cpus, int(config.cluster.device == "gpu")
    ranks = range(config.learner.num_workers)
    return PlacementPlan(
        placement="disaggregated",
        bundles=tuple(Bundle(cpus=cpus, gpus=gpus, noun=_NOUNS["learner"]) for _ in ranks),
        actors=tuple(_actor("learner", rank, (rank,), cpus, gpus) for rank in ranks),
        tensor_parallel_size=1,
    )


def check_plan(
    plan: PlacementPlan,
    cluster_resources: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]] = (),
) -> None:
    """Refuse a plan that can't be placed.

    Args:
        cluster_resources: totals by Ray's names, `{"CPU": 16.0, "GPU": 8.0}`.
        nodes: the same for each node; without it only totals are checked.

    Raises:
        PlacementError: every sum that doesn't add up, and what to lower.
    """
    problems = [*_totals(plan, cluster_resources)]
    if nodes and not problems:
        problems = [*_bundles_too_large(plan, nodes)] or [*_engines_split(plan, nodes)]
    if problems:
        raise PlacementError("\n".join(problems))


def bind_to_nodes(plan: PlacementPlan, bundle_nodes: Sequence[str]) -> PlacementPlan:
    """The same plan with each colocated engine on bundles of one node.

    Args:
        bundle_nodes: node of each bundle, as Ray placed the group, in the plan's order.

    Raises:
        PlacementError: the shared bundles of the nodes don't divide into whole engines.
    """
    assert len(bundle_nodes) == len(plan.bundles)
    if not plan.same_node:
        return plan
    size = plan.tensor_parallel_size
    shared = [actor.bundles[0] for actor in plan.of("learner")]
    by_node: dict[str, list[int]] = {}
    for bundle in shared:
        by_node.setdefault(bundle_nodes[bundle], []).append(bundle)
    if any(len(bundles) % size for bundles in by_node.values()):
        counts = " + ".join(str(len(bundles)) for bundles in by_node.values())
        raise PlacementError(
            f"the {len(shared)} shared GPUs came to lie on {len(by_node)} nodes as {counts}, which "
            f"doesn't divide into engines of rollout.tensor_parallel_size={size} GPUs on one node: "
            "wait until whole nodes are free, or lower rollout.tensor_parallel_size"
        )
    order = dict(zip(shared, (b for bundles in by_node.values() for b in bundles), strict=True))
    actors = tuple(
        replace(actor, bundles=tuple(order.get(b, b) for b in actor.bundles))
        for actor in plan.actors
    )
    return replace(plan, actors=actors)


def threads_per_worker(
    plan: PlacementPlan, role: Role, bundle_nodes: Sequence[str], node_cpus: Mapping[str, float]
) -> int:
    """Threads of each worker of a role, so that those of one node share its CPUs; the fewest that
    any node allows, and 1 if there is no such worker.

    Args:
        bundle_nodes: node of each bundle, as Ray placed them.
        node_cpus: CPUs of each node, as Ray counts them.
    """
    on_node = Counter(bundle_nodes[actor.bundles[0]] for actor in plan.of(role))
    return min((max(1, int(node_cpus[node]) // n) for node, n in on_node.items()), default=1)


def describe(plan: PlacementPlan) -> str:
    """The plan as a table, one line for each bundle, and the sums."""
    lines = [
        f"placement: {plan.placement}, {len(plan.bundles)} bundles",
        f"{'bundle':>6}  {'CPUs':>6}  {'GPUs':>4}  {'nodes':<6}  workers",
    ]
    for index, bundle in enumerate(plan.bundles):
        workers = ", ".join(actor.label for actor in plan.on(index))
        reserved = f"{index:>6}  {bundle.cpus:>6g}  {bundle.gpus:>4}"
        lines.append(f"{reserved}  {bundle.strategy.lower():<6}  {workers}")
    lines.append(_sum(plan, "CPU"))
    if _needed(plan, "GPU"):
        lines.append(_sum(plan, "GPU"))
    return "\n".join(lines)


# ----------------------------------------------------------------------------
# Layouts

_Layout = tuple[list[Bundle], list[PlacedActor]]


def _actor(
    role: Role, index: int, bundles: tuple[int, ...], cpus: float, gpus: int = 0
) -> PlacedActor:
    return PlacedActor(role=role, index=index, bundles=bundles, cpus=cpus, gpus=gpus)


def _disaggregated(config: Config) -> _Layout:
    on_gpu = config.cluster.device == "gpu"
    engine_gpus = config.rollout.tensor_parallel_size if on_gpu else 0
    bundles: list[Bundle] = []
    actors: list[PlacedActor] = []

    def add(role: Role, count: int, cpus: float, gpus: int) -> None:
        for index in range(count):
            actors.append(_actor(role, index, (len(bundles),), cpus, gpus))
            bundles.append(Bundle(cpus=cpus, gpus=gpus, noun=_NOUNS[role]))

    add("learner", config.learner.num_workers, config.cluster.learner_cpus, int(on_gpu))
    add("rollout", config.rollout.num_workers, config.cluster.rollout_cpus, engine_gpus)
    return bundles, actors


def _colocated_gpu(config: Config) -> _Layout:
    """Learner rank i holds GPU i; engine j runs on the GPUs of `tensor_parallel_size` ranks."""
    ranks, size = config.learner.num_workers, config.rollout.tensor_parallel_size
    assert ranks == config.rollout.num_workers * size, "the configuration checks this"
    learner_cpus, rollout_cpus = config.cluster.learner_cpus, config.cluster.rollout_cpus
    shared = Bundle(cpus=_add(learner_cpus, rollout_cpus), gpus=1, noun=_SHARED)
    actors = [_actor("learner", rank, (rank,), learner_cpus, gpus=1) for rank in range(ranks)]
    for index in range(config.rollout.num_workers):
        bundles = tuple(range(index * size, (index + 1) * size))
        actors.append(_actor("rollout", index, bundles, rollout_cpus))
    return [shared] * ranks, actors


def _colocated_cpu(config: Config) -> _Layout:
    """Learner rank i and engine i share bundle i; the more numerous kind has some to itself."""
    ranks, engines = config.learner.num_workers, config.rollout.num_workers
    learner_cpus, rollout_cpus = config.cluster.learner_cpus, config.cluster.rollout_cpus
    shared = Bundle(cpus=_add(learner_cpus, rollout_cpus), gpus=0, noun=_SHARED)
    learner = Bundle(cpus=learner_cpus, gpus=0, noun=_NOUNS["learner"])
    rollout = Bundle(cpus=rollout_cpus, gpus=0, noun=_NOUNS["rollout"])
    bundles = [shared] * min(ranks, engines)
    bundles += [learner] * (ranks - engines) + [rollout] * (engines - ranks)
    actors = [_actor("learner", rank, (rank,), learner_cpus) for rank in range(ranks)]
    actors += [_actor("rollout", index, (index,), rollout_cpus) for index in range(engines)]
    return bundles, actors


def _add_reference(config: Config, bundles: list[Bundle], actors: list[PlacedActor]) -> None:
    """A copy of the policy of its own has a device of its own in every layout."""
    if config.learner.resolved_reference != "actor":
        return
    cpus, gpus = config.cluster.learner_cpus, int(config.cluster.device == "gpu")
    for index in range(config.learner.reference_workers):
        actors.append(_actor("reference", index, (len(bundles),), cpus, gpus))
        bundles.append(Bundle(cpus=cpus, gpus=gpus, noun=_NOUNS["reference"]))


def _add_judges(config: Config, bundles: list[Bundle], actors: list[PlacedActor]) -> None:
    """Judges have bundles of their own in every layout.

    One that holds a GPU isn't spread: it would take a GPU of each node from whole engines.
    """
    cpus = config.cluster.judge_cpus
    hosts_model = config.judge.reward_model is not None and config.cluster.device == "gpu"
    strategy: Strategy = "PACK" if hosts_model else "SPREAD"
    for index in range(config.judge.num_workers):
        actors.append(_actor("judge", index, (len(bundles),), cpus, int(hosts_model)))
        gpus = int(hosts_model)
        bundles.append(Bundle(cpus=cpus, gpus=gpus, noun=_NOUNS["judge"], strategy=strategy))
    if config.judge.llm is None or config.judge.llm.backend != "vllm":
        return
    hosted = config.judge.llm.hosted
    gpus = hosted.tensor_parallel_size if config.cluster.device == "gpu" else 0
    for index in range(hosted.num_engines):
        actors.append(_actor("judge_server", index, (len(bundles),), hosted.cpus, gpus))
        bundles.append(Bundle(cpus=hosted.cpus, gpus=gpus, noun=_NOUNS["judge_server"]))


# ----------------------------------------------------------------------------
# Sums


def _units(amount: float) -> int:
    return round(amount * _UNITS)


def _add(*amounts: float) -> float:
    return sum(_units(amount) for amount in amounts) / _UNITS


def _amount(bundle: Bundle, resource: Resource) -> float:
    return bundle.cpus if resource == "CPU" else float(bundle.gpus)


def _needed(plan: PlacementPlan, resource: Resource) -> float:
    return _add(*(_amount(bundle, resource) for bundle in plan.bundles))


def _counted(amount: float, noun: str) -> str:
    return f"{amount:g} {noun}" if amount == 1 else f"{amount:g} {noun}s"


def _sum(plan: PlacementPlan, resource: Resource) -> str:
    """As in `8 learner ranks x 1 GPU + 4 rollout workers x 2 GPUs = 16 GPUs`."""
    alike = Counter((bundle.noun, _amount(bundle, resource)) for bundle in plan.bundles)
    terms = [
        f"{_counted(count, noun)} x {_counted(amount, resource)}"
        for (noun, amount), count in alike.items()
        if amount
    ]
    return f"{' + '.join(terms)} = {_counted(_needed(plan, resource), resource)}"


def _totals(plan: PlacementPlan, cluster_resources: Mapping[str, float]) -> Iterator[str]:
    resources: tuple[Resource, ...] = ("GPU", "CPU")
    for resource in resources:
        present = cluster_resources.get(resource, 0.0)
        if _units(_needed(plan, resource)) > _units(present):
            yield f"{_sum(plan, resource)}, the cluster has {present:g}: {_remedy(plan, resource)}"


def _remedy(plan: PlacementPlan, resource: Resource) -> str:
    engines = f"rollout.num_workers ({len(plan.of('rollout'))})"
    ranks = f"learner.num_workers ({len(plan.of('learner'))})"
    if references := len(plan.of("reference")):
        engines = f"{engines}, learner.reference_workers ({references})"
    if servers := len(plan.of("judge_server")):
        engines = f"judge.llm.hosted.num_engines ({servers}), {engines}"
    if resource == "CPU":
        keys = "cluster.learner_cpus, cluster.rollout_cpus or cluster.judge_cpus"
        return f"lower {engines} or {ranks}, or what each reserves ({keys})"
    if plan.placement == "colocated":
        return f"lower {engines} and {ranks} together"
    size = plan.tensor_parallel_size
    engine_size = f", rollout.tensor_parallel_size ({size})" if size > 1 else ""
    return f"lower {engines}{engine_size} or {ranks}"


# ----------------------------------------------------------------------------
# Nodes


def _inseparable(plan: PlacementPlan) -> list[Bundle]:
    """What must fit one node: each bundle, those of one engine taken together."""
    together = {bundle for bundles in plan.same_node for bundle in bundles}
    merged = [_merged([plan.bundles[i] for i in bundles]) for bundles in plan.same_node]
    return merged + [b for i, b in enumerate(plan.bundles) if i not in together]


def _merged(bundles: Sequence[Bundle]) -> Bundle:
    return Bundle(
        cpus=_add(*(bundle.cpus for bundle in bundles)),
        gpus=sum(bundle.gpus for bundle in bundles),
        noun="engine with the learner ranks on its GPUs",
    )


def _fits(bundle: Bundle, node: Mapping[str, float]) -> bool:
    return all(
        _units(amount) <= _units(node.get(resource, 0.0))
        for resource, amount in bundle.resources.items()
    )


def _bundles_too_large(plan: PlacementPlan, nodes: Sequence[Mapping[str, float]]) -> Iterator[str]:
    for bundle in dict.fromkeys(_inseparable(plan)):
        if any(_fits(bundle, node) for node in nodes):
            continue
        needs = " and ".join(_counted(amount, r) for r, amount in bundle.resources.items())
        present = "; ".join(
            dict.fromkeys(f"{n.get('CPU', 0.0):g} CPUs, {n.get('GPU', 0.0):g} GPUs" for n in nodes)
        )
        yield (
            f"one {bundle.noun} needs {needs} on one node, but no node has them ({present}): lower "
            "rollout.tensor_parallel_size or the CPUs that each reserves (cluster.*_cpus)"
        )


def _engines_split(plan: PlacementPlan, nodes: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Free GPUs may add up and still be too scattered for engines that can't be split."""
    size, engines = plan.tensor_parallel_size, len(plan.of("rollout"))
    if size == 1:
        return
    gpus = [int(node.get("GPU", 0.0)) for node in nodes]
    room = sum(count // size for count in gpus)
    if room < engines:
        yield (
            f"rollout.num_workers={engines} engines of rollout.tensor_parallel_size={size} GPUs "
            f"each on one node, but nodes of {' + '.join(map(str, gpus))} GPUs hold {room}: lower "
            "one of them"
        )
