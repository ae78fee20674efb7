"""`rubric-rl plan`: what a run will take, before anything is rented or started.

    rubric-rl plan experiment=paper_health --gpu h100
    rubric-rl plan experiment=paper_health --nodes 2 --gpu a100 learner.num_workers=16 \\
        rollout.num_workers=16
    RAY_ADDRESS=HOST:6379 rubric-rl plan experiment=paper_health

Nothing is started and no model is loaded. The exit code is 2 where the run can't fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rubric_rl.commands.judge_inputs import positive
from rubric_rl.commands.plan_inputs import (
    GivenFigures,
    find_shape,
    joined_cluster,
    prompt_figures,
)
from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.controller.checkpoint_size import checkpoint_bytes, num_at_once
from rubric_rl.errors import ConfigError, PlacementError
from rubric_rl.observability.machine import this_machine
from rubric_rl.observability.printable import printable
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.hardware import GIB, Cluster, Gpu, Node, gpu_named, gpu_of_label
from rubric_rl.planning.plan import Models, TrainingPlan, make_plan
from rubric_rl.planning.plan_text import plan_lines
from rubric_rl.runtime.placement import check_plan, describe, plan_placement

_EPILOG = """\
OVERRIDE is Hydra's, as in `rubric-rl train`. Without a description and without
RAY_ADDRESS or cluster.address the cluster is this machine.

  rubric-rl plan experiment=paper_health --gpus-per-node 8 --gpu h100
  rubric-rl plan experiment=paper_health --gpus-per-node 8 --gpu-memory-gib 48 learner=zero3_offload
"""
_GPUS_PER_NODE = 8
_CPUS_PER_GPU = 8


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises RubricRLError."""
    args = _parser().parse_intermixed_args(argv)
    config = compose(args.overrides)
    plan = make_plan(
        config,
        _models(config, args.model_config),
        _cluster(config, args),
        prompt_figures(config, _given(args)),
        _assumptions(args.assume),
    )
    _say(f"{config.run.name} on {plan.cluster.describe()}")
    placement = plan_placement(config)
    _say(f"{describe(placement)}\n")
    for line in plan_lines(plan):
        _say(line)
    _say(_disk(plan))
    problems = [*_placement_problems(config, plan.cluster), *plan.problems]
    if problems:
        raise PlacementError("this can't fit:\n" + "\n".join(f"  - {p}" for p in problems))
    _say(_verdict(plan))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl plan",
        description="What a run will take: placement, memory, steps, judge calls, time.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    cluster = parser.add_argument_group("a cluster that isn't there yet")
    cluster.add_argument("--nodes", type=positive, help="machines (default 1)")
    cluster.add_argument(
        "--gpus-per-node", type=_count, help=f"default {_GPUS_PER_NODE} with --gpu"
    )
    cluster.add_argument(
        "--gpu", metavar="NAME", help="h100, h200, b200, a100, a100-40gb, l40s, ..."
    )
    cluster.add_argument("--gpu-memory-gib", type=_amount, help="of each GPU, what torch reports")
    cluster.add_argument("--gpu-tflops", type=_amount, help="dense bfloat16 peak of each")
    cluster.add_argument("--gpu-bandwidth-gbs", type=_amount, help="of each GPU's memory, GB/s")
    cluster.add_argument(
        "--cpus", type=_amount, help=f"of each node (default {_CPUS_PER_GPU} a GPU)"
    )
    cluster.add_argument("--memory-gib", type=_amount, help="host memory of each node")
    work = parser.add_argument_group("what no file tells")
    work.add_argument("--train-prompts", type=positive, help="default: the file's, else 5000")
    work.add_argument("--eval-prompts", type=_count, help="default: the file's, else 1000")
    work.add_argument("--criteria", type=positive, help="of a prompt, where no file tells")
    work.add_argument("--prompt-tokens", type=_amount, help="mean length of a prompt")
    work.add_argument("--completion-tokens", type=_amount, help="mean (default: the longest)")
    work.add_argument("--model-config", type=Path, metavar="FILE", help="the policy's config.json")
    work.add_argument(
        "--assume", action="append", default=[], metavar="NAME=VALUE", help="see the plan's end"
    )
    # The same as leaving it out: a plan starts nothing.
    parser.add_argument("--dry-run", action="store_true", help="accepted; a plan spends nothing")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number, 0 or more")
    return int(text)


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, want a number above 0")
    return amount


# ----------------------------------------------------------------------------
# What is asked


def _models(config: Config, model_config: Path | None) -> Models:
    policy = find_shape(config.model.name_or_path, model_config)
    llm = config.judge.llm
    hosted = llm is not None and llm.backend == "vllm"
    return Models(policy=policy, judge=find_shape(llm.model, None) if hosted and llm else None)


def _given(args: argparse.Namespace) -> GivenFigures:
    return GivenFigures(
        num_train=args.train_prompts,
        num_eval=args.eval_prompts,
        num_criteria=args.criteria,
        prompt_tokens=args.prompt_tokens,
        completion_tokens=args.completion_tokens,
    )


def _assumptions(settings: Sequence[str]) -> Assumptions:
    """The defaults with what `--assume` changes. Raises ConfigError."""
    assumptions = Assumptions()
    names = [field.name for field in dataclasses.fields(Assumptions)]
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in names:
            raise ConfigError(f"--assume {setting!r}: there is {', '.join(names)}")
        try:
            value = _amount(text)
        except argparse.ArgumentTypeError as err:
            raise ConfigError(f"--assume {setting!r}: {err}") from err
        assumptions = dataclasses.replace(assumptions, **{name: value})
    return assumptions


def _cluster(config: Config, args: argparse.Namespace) -> Cluster:
    """As described; else the one that runs; else this machine. Raises RubricRLError."""
    described = (args.nodes, args.gpus_per_node, args.gpu, args.gpu_memory_gib, args.cpus)
    if any(value is not None for value in described):
        return _described(args)
    found = joined_cluster(config) or _here()
    return dataclasses.replace(found, gpu=_refined(found.gpu, args))


def _described(args: argparse.Namespace) -> Cluster:
    has_gpus = args.gpu is not None or args.gpu_memory_gib is not None
    gpus = args.gpus_per_node
    if gpus is None:
        gpus = _GPUS_PER_NODE if has_gpus else 0
    if gpus and not has_gpus:
        raise ConfigError(f"--gpus-per-node {gpus}: say which, with --gpu or --gpu-memory-gib")
    cpus = args.cpus or float(_CPUS_PER_GPU * gpus)
    if not cpus:
        raise ConfigError("a node without GPUs needs --cpus")
    unknown = Gpu(name="GPU", memory_gib=None, tflops=None, bandwidth_gbs=None)
    gpu = gpu_named(args.gpu) if args.gpu else unknown
    return Cluster(
        nodes=(Node(cpus=cpus, gpus=gpus, memory_gib=args.memory_gib),) * (args.nodes or 1),
        gpu=_refined(gpu, args) if gpus else None,
        source="as described" + ("" if args.cpus else f"; {_CPUS_PER_GPU} CPUs a GPU assumed"),
    )


def _refined(gpu: Gpu | None, args: argparse.Namespace) -> Gpu | None:
    if gpu is None:
        return None
    return Gpu(
        name=gpu.name,
        memory_gib=args.gpu_memory_gib or gpu.memory_gib,
        tflops=args.gpu_tflops or gpu.tflops,
        bandwidth_gbs=args.gpu_bandwidth_gbs or gpu.bandwidth_gbs,
    )


def _here() -> Cluster:
    machine = this_machine()
    gpus = [gpu_of_label(gpu.name, gpu.memory_gib) for gpu in machine.gpus]
    return Cluster(
        nodes=(Node(cpus=machine.cores, gpus=len(gpus), memory_gib=machine.memory_gib),),
        gpu=min(gpus, key=lambda gpu: gpu.memory_gib or 0.0, default=None),
        source="this machine; describe another with --gpu and --gpus-per-node",
    )


# ----------------------------------------------------------------------------
# What is answered


def _placement_problems(config: Config, cluster: Cluster) -> list[str]:
    try:
        nodes = [node.resources for node in cluster.nodes]
        check_plan(plan_placement(config), cluster.resources, nodes)
    except PlacementError as err:
        return str(err).splitlines()
    return []


def _disk(plan: TrainingPlan) -> str:
    """What checkpoints take on the disk of run.dir."""
    config, count = plan.config, plan.models.policy.num_parameters
    if config.learner.lora.enabled:
        return "disk: checkpoints of adapters are small"
    has_evaluation = plan.work.evaluations > 0
    at_once = num_at_once(config, num_steps=plan.work.steps, has_evaluation=has_evaluation)
    each = checkpoint_bytes(config, count)
    return (
        f"disk: {at_once} checkpoints at once x {each / GIB:.1f} GiB ({each // count} B a "
        f"parameter) = {at_once * each / GIB:.0f} GiB in run.dir"
    )


def _verdict(plan: TrainingPlan) -> str:
    kinds = [plan.engine, *([plan.judge] if plan.judge else [])]
    room = ", ".join(f"{kind.settings.label} {kind.limit_gib:.1f}" for kind in kinds)
    return f"it fits: learner rank {plan.learner.peak.gib:.1f} GiB at its peak, {room}"


def _say(text: str) -> None:
    sys.stdout.write(printable(f"{text}\n"))
