"""`rubric-rl doctor`: whether a run would start here, one line for each thing that it needs.

    rubric-rl doctor experiment=quickstart_cpu
    rubric-rl doctor experiment=paper_health --load-model

    ok    packages       29 of the supported set: torch 2.13.0, ray 2.55.0, ...
    fail  compiler       no C++ extension can be built (there is no ninja): install ...

The judge's and the proposer's endpoints get the few small requests that a run begins
with. The exit code is 2 where a check fails; warnings don't count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

from rubric_rl.config.compose import compose
from rubric_rl.config.schema import Config
from rubric_rl.data.prompt_set import load_prompt_set
from rubric_rl.doctor.findings import Finding, fail, ok, tried, warn, worst
from rubric_rl.doctor.packages import (
    check_packages,
    check_python,
    installed_version,
    supported_set,
)
from rubric_rl.doctor.system import (
    build_extension,
    check_compiler,
    check_machine,
    check_number_type,
    check_ports,
    check_run_dir,
    check_shared,
    check_shared_memory,
    connect_to_self,
    nearest_folder,
    write_there,
)
from rubric_rl.errors import ClusterError, ConfigError, ModelError
from rubric_rl.judging.judge import check_rubrics
from rubric_rl.observability.machine import shared_memory_gib, this_machine
from rubric_rl.observability.printable import printable

_EXIT_FAILED = 2
# A process starts on each node, and builds an extension there.
_NODE_TIMEOUT_S = 180.0
_SAME_PACKAGES = "every node needs the same packages at the same place, rubric_rl among them"
_INSTALL = {
    "cpu": "install them with bash launch/setup.sh",
    "gpu": "install them with bash launch/setup.sh gpu in a checkout",
}


@dataclass(frozen=True, slots=True)
class Check:
    """What is looked at, and how."""

    name: str
    about: str
    find: Callable[[], Finding]


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises ConfigError."""
    args = _parser().parse_intermixed_args(argv)
    checks = checks_of(compose(args.overrides), load_model=args.load_model)
    if args.dry_run:
        for check in checks:
            _say(f"{check.name:<14} {check.about}")
        return 0
    findings: list[Finding] = []
    for check in checks:
        findings.append(check.find())
        _say(findings[-1].line)
    counts = [f"{sum(f.status == s for f in findings)} {s}" for s in ("ok", "warn", "fail")]
    _say(", ".join(counts))
    return _EXIT_FAILED if worst(findings) == "fail" else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rubric-rl doctor",
        description="Check that a run would start here: packages, machine, model, endpoints.",
        epilog="OVERRIDE is Hydra's, as in `rubric-rl train`.",
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    parser.add_argument(
        "--load-model", action="store_true", help="load the weights too and run one token"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the checks; make none")
    return parser


def checks_of(config: Config, *, load_model: bool = False) -> list[Check]:
    """All checks of a configuration, the cheapest first."""
    return [
        Check("python", "the interpreter's version", lambda: check_python(sys.version_info[:2])),
        Check("packages", "versions against the supported set", lambda: _packages(config)),
        Check(
            "machine",
            "cores, memory, GPUs",
            lambda: check_machine(this_machine(), config.cluster.device),
        ),
        Check(
            "shared memory",
            "room in /dev/shm",
            lambda: check_shared_memory(shared_memory_gib()),
        ),
        Check("ports", "this machine reaches itself", lambda: check_ports(connect_to_self)),
        Check("compiler", "builds a small extension", lambda: check_compiler(build_extension)),
        Check(
            "run folder",
            "run.dir can be written",
            lambda: check_run_dir(config.run.dir, write_there),
        ),
        Check("data", "the file and its rubrics", lambda: tried("data", lambda: _data(config))),
        *_model_checks(config, load_model),
        *_service_checks(config),
    ]


def _packages(config: Config) -> Finding:
    device, llm = config.cluster.device, config.judge.llm
    extras = [device, *(["litellm"] if llm is not None and llm.backend == "litellm" else [])]
    return check_packages(supported_set(extras), installed_version, _INSTALL[device])


def _data(config: Config) -> str:
    raw = load_prompt_set(config.data)
    check_rubrics(raw.rubrics.rubrics, has_llm=config.judge.llm is not None)
    return f"{len(raw.train)} training and {len(raw.eval)} held-out prompts in {raw.path}"


# ----------------------------------------------------------------------------
# The model


def _model_checks(config: Config, load_model: bool) -> Iterator[Check]:
    yield Check(
        "model",
        "directory, tokenizer, chat template",
        lambda: tried("model", lambda: _tokenizer(config)),
    )
    if load_model:
        yield Check(
            "weights",
            "loads them and runs one token",
            lambda: tried("weights", lambda: _weights(config)),
        )
        if config.cluster.device == "cpu":
            yield Check(
                "number type",
                "how fast products are in each",
                lambda: check_number_type(config.learner.dtype, _matrix_rates),
            )


def _matrix_rates() -> dict[str, float]:
    import torch

    from rubric_rl.learner.numerics import matrix_flop_per_s

    cpu = torch.device("cpu")
    return {
        "float32": matrix_flop_per_s(cpu, torch.float32),
        "bfloat16": matrix_flop_per_s(cpu, torch.bfloat16),
    }


def _tokenizer(config: Config) -> str:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rubric_rl.data.tokenizing import load_tokenizer, resolve_model_path

    path = resolve_model_path(config.model)
    tokenizer = load_tokenizer(path, config.model)
    return f"{path} has a tokenizer with a chat template, stops at {tokenizer.stop_token_ids}"


def _weights(config: Config) -> str:
    import torch
    from safetensors import SafetensorError

    from rubric_rl.data.tokenizing import resolve_model_path
    from rubric_rl.learner.models import load_causal_lm, torch_device

    path = resolve_model_path(config.model)
    has_gpu = torch.cuda.is_available()
    device = torch_device("gpu" if has_gpu else "cpu")
    try:
        model = load_causal_lm(path, config.model, config.learner, device)
    except (OSError, ValueError, RuntimeError, SafetensorError) as err:
        raise ModelError(
            f"the weights of {path} can't be loaded ({type(err).__name__}: {err}): see that its "
            "files are whole and fit the memory"
        ) from err
    with torch.no_grad():
        logits = model(input_ids=torch.ones(1, 1, dtype=torch.int64, device=device)).logits
    if not torch.isfinite(logits).all():
        raise ModelError(f"the weights of {path} give logits that are not finite: load them anew")
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{count:,} parameters in {config.learner.dtype} on {device.type} give finite logits"


# ----------------------------------------------------------------------------
# What is elsewhere


def _service_checks(config: Config) -> Iterator[Check]:
    if config.judge.llm is not None:
        yield Check(
            "judge",
            "its endpoints answer as is asked (three small requests each)",
            lambda: tried("judge", lambda: _judge(config)),
        )
    if config.refinement.enabled and config.refinement.proposer.kind == "llm":
        yield Check(
            "proposer",
            "its endpoint answers (small requests)",
            lambda: tried("proposer", lambda: _proposer(config)),
        )
    yield Check("W&B", "a login, or what happens without", lambda: _wandb(config))
    if config.cluster.address != "local" and (
        config.cluster.address != "auto" or "RAY_ADDRESS" in os.environ
    ):
        yield Check("cluster", "joins it, compares the placement", lambda: _cluster(config))
        yield Check(
            "nodes",
            "packages, shared memory, compiler, shared run folder of each",
            lambda: _nodes(config),
        )
    else:
        yield Check("placement", "fits this machine", lambda: _placement(config))


def _judge(config: Config) -> str:
    from rubric_rl.judging.endpoint import check_judge, check_price
    from rubric_rl.runtime.preflight import hosted_model_path

    llm = config.judge.llm
    assert llm is not None
    check_price(llm, config.judge.budget)
    if llm.backend == "vllm":
        return f"{hosted_model_path(config, llm)} will be served by the run itself"
    identity = asyncio.run(check_judge(llm))
    served = identity.served_model or "no name"
    return f"{len(llm.endpoint_names)} endpoints answer as {served}, by {identity.contract}"


def _proposer(config: Config) -> str:
    from rubric_rl.judging.endpoint import check_judge

    llm = config.refinement.proposer.llm
    if llm is None:
        raise ConfigError("refinement.proposer.kind=llm needs refinement.proposer.llm")
    identity = asyncio.run(check_judge(llm))
    return f"{llm.model} answers as {identity.served_model or 'no name'}, by {identity.contract}"


def _wandb(config: Config) -> Finding:
    from rubric_rl.observability.wandb_sink import has_login, resolve_mode

    mode, why = resolve_mode(config)
    return check_wandb(mode, why, logged_in=mode == "online" and has_login())


def check_wandb(mode: str, why: str, *, logged_in: bool) -> Finding:
    """Whether a run is recorded where its people look."""
    if mode == "online" and not logged_in:
        return fail("W&B", f"{why}, but no API key is found", "wandb login, or WANDB_API_KEY")
    if mode == "online":
        return ok("W&B", f"online ({why})")
    if mode == "disabled":
        return ok("W&B", f"disabled ({why})")
    return warn("W&B", f"offline ({why})", "wandb login or WANDB_API_KEY, or wandb sync later")


def _cluster(config: Config) -> Finding:
    from rubric_rl.commands.plan_inputs import joined_cluster

    def fits() -> str:
        cluster = joined_cluster(config)
        assert cluster is not None, "who calls this knows that there is an address"
        _check_placement(config, [node.resources for node in cluster.nodes])
        return f"{cluster.describe()} holds the workers"

    return tried("cluster", fits)


def _nodes(config: Config) -> Finding:
    from rubric_rl.runtime.cluster import ray_cluster
    from rubric_rl.runtime.node_checks import on_each_node

    try:
        with (
            ray_cluster(config.cluster),
            NamedTemporaryFile(dir=nearest_folder(Path(config.run.dir))) as marker,
        ):
            question = partial(node_findings, config, Path(marker.name))
            answers = on_each_node(question, _NODE_TIMEOUT_S)
    except (ClusterError, OSError) as err:
        return fail("nodes", str(err))
    return check_nodes(
        [
            (node.address, node.answer or [fail("doctor", f"{node.problem}", _SAME_PACKAGES)])
            for node in answers
        ]
    )


def node_findings(config: Config, marker: Path) -> list[Finding]:
    """What a worker needs of the node that it is started on; the driver wrote `marker`."""
    return [
        check_python(sys.version_info[:2]),
        _packages(config),
        check_shared_memory(shared_memory_gib()),
        check_compiler(build_extension),
        check_shared(marker),
    ]


def check_nodes(found: Sequence[tuple[str, Sequence[Finding]]]) -> Finding:
    """One line for all nodes, each with its address: all that is not as it should be."""
    if not found:
        return fail("nodes", "no node of the cluster has CPUs", "start one (ray start)")
    every = [finding for _, findings in found for finding in findings]
    faults = [
        f"{address}: {finding.name}: {finding.told}"
        for address, findings in found
        for finding in findings
        if finding.status != "ok"
    ]
    if not faults:
        names = dict.fromkeys(finding.name for finding in every)
        return ok("nodes", f"{len(found)} nodes have {', '.join(names)}")
    return Finding(status=worst(every), name="nodes", text="; ".join(faults))


def _placement(config: Config) -> Finding:
    machine = this_machine()
    here = {"CPU": float(machine.cores), "GPU": float(len(machine.gpus))}

    def fits() -> str:
        _check_placement(config, [here])
        return "this machine holds the workers; `rubric-rl plan` has the memory"

    return tried("placement", fits)


def _check_placement(config: Config, nodes: Sequence[dict[str, float]]) -> None:
    from rubric_rl.runtime.placement import check_plan, plan_placement

    totals = {key: sum(node.get(key, 0.0) for node in nodes) for key in ("CPU", "GPU")}
    check_plan(plan_placement(config), totals, nodes)


def _say(text: str) -> None:
    sys.stdout.write(printable(f"{text}\n"))
    sys.stdout.flush()
