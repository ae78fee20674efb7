"""Start the judges: servers of their own if configured, then the workers, as one pool."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rubric_rl.config.judge import EndpointConfig, JudgeConfig, LlmJudgeConfig
from rubric_rl.config.schema import Config
from rubric_rl.errors import EndpointError
from rubric_rl.judging.endpoint import JudgeIdentity, check_judge
from rubric_rl.judging.hosted import KEY_ENV, ServerSpec, served_name
from rubric_rl.judging.templates import JudgeTemplates
from rubric_rl.runtime.actors import JudgeServer, JudgeSetup, JudgeWorker
from rubric_rl.runtime.cluster import ReservedPlan
from rubric_rl.runtime.judge_budget import budget_actor, budget_name, judge_membership
from rubric_rl.runtime.judge_pool import BudgetAccount, RayJudgePool
from rubric_rl.runtime.preflight import hosted_model_path
from rubric_rl.runtime.waiting import Waiting

# Judging many samples at once must not keep `ready` from being answered.
_SPARE_JUDGE_CALLS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeStart:
    """What judges need beside the configuration."""

    run_id: str
    identity: JudgeIdentity | None
    """What the check of the endpoints found; None for rules only, and for a hosted judge, whose
    servers are checked once they run."""
    templates: JudgeTemplates
    cache_dir: Path | None


# ----------------------------------------------------------------------------
# Servers of a hosted judge


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingServers:
    """Servers on their way: references to their addresses, by label."""

    addresses: dict[str, Any]
    key: str
    actors: tuple[Any, ...] = ()
    """Handles: Ray ends an actor that nobody holds."""


def start_servers(config: Config, reserved: ReservedPlan, log_dir: str) -> StartingServers:
    """Set the servers of the plan going; there are none unless the judge is hosted."""
    llm, key = config.judge.llm, secrets.token_urlsafe(16)
    addresses: dict[str, Any] = {}
    actors: list[Any] = []
    for actor in reserved.plan.of("judge_server"):
        assert llm is not None
        server = reserved.create(actor, JudgeServer, f"{log_dir}/{actor.role}_{actor.index}.log")
        actors.append(server)
        spec = _server_spec(config, llm, reserved.threads_for("judge_server"))
        addresses[actor.label] = server.start.remote(spec, key, config.cluster.start_timeout_s)
    return StartingServers(addresses=addresses, key=key, actors=tuple(actors))


def _server_spec(config: Config, llm: LlmJudgeConfig, num_threads: int) -> ServerSpec:
    return ServerSpec(
        model_path=hosted_model_path(config, llm),
        served_name=served_name(llm.model),
        hosted=llm.hosted,
        device=config.cluster.device,
        host="",  # the server's own node knows
        port=0,
        num_threads=num_threads,
    )


async def _served(
    config: Config, start: JudgeStart, servers: StartingServers, waiting: Waiting
) -> tuple[Config, JudgeStart]:
    """The configuration with the servers' addresses as endpoints, and who answers there."""
    llm, timeout_s = config.judge.llm, config.cluster.start_timeout_s
    assert llm is not None
    count = len(servers.addresses)
    what = f"{count} judge server{'s' if count > 1 else ''}"
    urls = list((await waiting.all(what, servers.addresses, timeout_s)).values())
    os.environ[KEY_ENV] = servers.key  # where clients of this process look for it
    further = tuple(EndpointConfig(base_url=url, api_key_env=KEY_ENV) for url in urls[1:])
    served = llm.model_copy(
        update={
            "backend": "openai",
            "model": served_name(llm.model),
            "base_url": urls[0],
            "api_key_env": KEY_ENV,
            "extra_endpoints": further,
        }
    )
    judge = config.judge.model_copy(update={"llm": served})
    identity = await check_judge(served, timeout_s=llm.timeout_s)
    return config.model_copy(update={"judge": judge}), replace(start, identity=identity)


# ----------------------------------------------------------------------------
# Workers


async def start_judges(
    config: Config,
    start: JudgeStart,
    reserved: ReservedPlan,
    servers: StartingServers,
    waiting: Waiting,
) -> RayJudgePool:
    """Start the judge workers and wait until all are ready, servers first.

    Raises:
        EndpointError: a worker would judge with other templates than the run's.
    """
    if servers.addresses:
        config, start = await _served(config, start, servers, waiting)
    setup = judge_setup(config, start)
    workers = create_judges(config, setup, reserved, waiting.log_dir)
    ready = await waiting.all(
        f"{len(workers)} judge workers",
        {label: worker.ready.remote() for label, worker in workers.items()},
        config.cluster.start_timeout_s,
    )
    _refuse_wrong_judges(ready, start.templates.template_hash)
    return _pool(config, setup, workers, servers)


def judge_setup(config: Config, start: JudgeStart) -> JudgeSetup:
    """What every judge worker is built from."""
    llm = config.judge.llm
    return JudgeSetup(
        config=_with_absolute_path(config.judge),
        identity=start.identity,
        templates=start.templates,
        budget_name="" if llm is None else budget_name(llm.model, llm.endpoint_names),
        account=start.run_id,
        cache_dir=None if start.cache_dir is None else str(start.cache_dir),
        device=config.cluster.device,
    )


def _with_absolute_path(judge: JudgeConfig) -> JudgeConfig:
    """Workers on other nodes are in other folders."""
    if judge.reward_model is None:
        return judge
    path = str(Path(judge.reward_model.path).expanduser().resolve())
    model = judge.reward_model.model_copy(update={"path": path})
    return judge.model_copy(update={"reward_model": model})


def create_judges(
    config: Config, setup: JudgeSetup, reserved: ReservedPlan, log_dir: str
) -> dict[str, Any]:
    """Start the judge workers of the plan; handles by label."""
    return {
        actor.label: reserved.create(
            actor,
            JudgeWorker,
            f"{log_dir}/{actor.role}_{actor.index}.log",
            setup,
            judge_secrets(config),
            max_restarts=-1,
            max_concurrency=config.judge.max_in_flight_per_worker + _SPARE_JUDGE_CALLS,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        )
        for actor in reserved.plan.of("judge")
    }


def judge_secrets(config: Config) -> dict[str, str]:
    """Environment variables that carry the endpoints' keys to judges on other nodes.

    An argument of the actor, not its runtime environment: Ray writes that to its
    logs and shows it in its dashboard.
    """
    llm = config.judge.llm
    if llm is None:
        return {}
    names = {llm.api_key_env, *(endpoint.api_key_env for endpoint in llm.endpoints)}
    return {name: os.environ[name] for name in names if name is not None and name in os.environ}


def _refuse_wrong_judges(template_hashes: dict[str, str], expected: str) -> None:
    """Another version of the package on another node would judge by other words."""
    wrong = sorted(label for label, found in template_hashes.items() if found != expected)
    if wrong:
        raise EndpointError(
            f"{', '.join(wrong)} would judge with other templates, or another reward model, than "
            f"this run's ({expected}): install the same version of rubric-rl on every node, with "
            "the same judge.reward_model.path"
        )


def _pool(
    config: Config, setup: JudgeSetup, workers: dict[str, Any], servers: StartingServers
) -> RayJudgePool:
    account = None
    if setup.identity is not None:
        membership = judge_membership(
            setup.config, client=f"{setup.account}:driver:{os.getpid()}", account=setup.account
        )
        account = BudgetAccount(
            actor=partial(budget_actor, setup.budget_name), membership=membership
        )
    return RayJudgePool(
        workers,
        max_in_flight_per_worker=config.judge.max_in_flight_per_worker,
        timeout_s=config.cluster.step_timeout_s,
        account=account,
        served_model="" if setup.identity is None else setup.identity.served_model,
        cache_dir=None if setup.cache_dir is None else Path(setup.cache_dir),
        servers=servers.actors,
        run=config.run.name,
    )
