"""Ray actors: shells over the plain classes that do the work.

Each method forwards and returns a typed result. Heavy imports happen inside,
so that the driver can import this module without torch or vLLM.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray

from rubric_rl.config.judge import JudgeConfig
from rubric_rl.data.small_model import prepare_here
from rubric_rl.judging.hosted import ServerSpec, VllmServer
from rubric_rl.observability.checksums import FileDigest
from rubric_rl.rollout.create_engine import EngineName, create_engine
from rubric_rl.rollout.engine import EngineSpec, RolloutEngine, bucket_update_info
from rubric_rl.runtime.process import free_port, redirect_output
from rubric_rl.types import (
    Judgement,
    JudgeRequest,
    RolloutRequest,
    Sample,
    TrainBatch,
    UpdateResult,
)

if TYPE_CHECKING:
    import numpy as np

    from rubric_rl.judging.endpoint import JudgeIdentity
    from rubric_rl.judging.judge import RubricJudge
    from rubric_rl.judging.reward_model import RewardModelJudge
    from rubric_rl.judging.templates import JudgeTemplates
    from rubric_rl.learner.learner import Learner
    from rubric_rl.learner.pairs import PairBatch, RewardUpdate, TokenPair
    from rubric_rl.learner.reference import ReferenceModel
    from rubric_rl.learner.reward_learner import RewardLearner
    from rubric_rl.learner.spec import LearnerSpec, RankInfo
    from rubric_rl.weight_sync.spec import FleetClient, SenderSpec


class LearnerWorker:
    """Hosts one learner rank."""

    def __init__(self, log_path: str) -> None:
        redirect_output(log_path)
        self._learner: Learner | None = None
        self._sender: Any = None
        self._client: Any = None

    @property
    def learner(self) -> Learner:
        assert self._learner is not None, "start() comes first"
        return self._learner

    def sees(self, path: str) -> bool:
        """Whether a file is there on this node."""
        return Path(path).is_file()

    def address(self) -> tuple[str, int]:
        """Where the other ranks find this one."""
        return ray.util.get_node_ip_address(), free_port()

    def gpu_ids(self) -> list[str]:
        """Devices that Ray gave this actor."""
        return [str(gpu) for gpu in ray.get_gpu_ids()]

    def start(self, spec: LearnerSpec, rank: RankInfo, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        # Adam's second moments reach denormal numbers, which a CPU computes slowly.
        torch.set_flush_denormal(True)
        prepare_here(spec.model_path)
        from rubric_rl.learner.learner import Learner

        self._learner = Learner(spec, rank)

    def update(self, batch: TrainBatch) -> UpdateResult:
        return self.learner.update(batch)

    def log_probs(self, batch: TrainBatch) -> list[list[float]]:
        return self.learner.log_probs(batch)

    def save(self, directory: str, in_background: bool) -> None:
        self.learner.save(Path(directory), in_background=in_background)

    def written(self) -> dict[str, FileDigest] | None:
        """None while it is being written."""
        return self.learner.written()

    def load(self, directory: str) -> int:
        return self.learner.load(Path(directory))

    def export(self, directory: str) -> None:
        from rubric_rl.weight_sync.object_store import BUCKET_BYTES

        self.learner.export(Path(directory), BUCKET_BYTES)

    def put_weights(self) -> list[ray.ObjectRef[np.ndarray]]:
        """Put the policy's weights into the object store; rank 0 returns the buckets."""
        from rubric_rl.weight_sync.object_store import BUCKET_BYTES, pack_bucket

        is_sender = self.learner.rank.rank == 0
        return [
            ray.put(pack_bucket(bucket))
            for bucket in self.learner.named_weights(BUCKET_BYTES)
            if is_sender
        ]

    def connect_engines(self, spec: SenderSpec, client: FleetClient) -> None:
        """Join the engines through one of vLLM's own transports."""
        from rubric_rl.weight_sync.vllm_sender import connect

        self._client = client
        self._sender = connect(spec, self.learner, client)

    def send_weights(self, policy_version: int) -> None:
        self._client.policy_version = policy_version
        self._sender.send_weights()

    def offload(self) -> None:
        self.learner.offload()


class RewardLearnerWorker:
    """Hosts one rank that trains a reward model; called as a `LearnerWorker` is."""

    def __init__(self, log_path: str) -> None:
        redirect_output(log_path)
        self._learner: RewardLearner | None = None

    @property
    def learner(self) -> RewardLearner:
        assert self._learner is not None, "start() comes first"
        return self._learner

    def address(self) -> tuple[str, int]:
        return ray.util.get_node_ip_address(), free_port()

    def start(self, spec: LearnerSpec, rank: RankInfo, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        torch.set_flush_denormal(True)
        prepare_here(spec.model_path)
        from rubric_rl.learner.reward_learner import RewardLearner

        self._learner = RewardLearner(spec, rank)

    def update(self, batch: PairBatch) -> RewardUpdate:
        return self.learner.update(batch)

    def margins(self, pairs: Sequence[TokenPair]) -> list[float]:
        return self.learner.margins(pairs)

    def save(self, directory: str, in_background: bool) -> None:
        self.learner.save(Path(directory), in_background=in_background)

    def written(self) -> dict[str, FileDigest] | None:
        return self.learner.written()

    def load(self, directory: str) -> int:
        return self.learner.load(Path(directory))

    def export(self, directory: str) -> None:
        from rubric_rl.weight_sync.object_store import BUCKET_BYTES

        self.learner.export(Path(directory), BUCKET_BYTES)


class ReferenceWorker:
    """Hosts one copy of the policy as it was loaded."""

    def __init__(self, log_path: str) -> None:
        redirect_output(log_path)
        self._model: ReferenceModel | None = None

    def start(self, spec: LearnerSpec, index: int, num_workers: int, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        prepare_here(spec.model_path)
        from rubric_rl.learner.reference import ReferenceModel

        self._model = ReferenceModel(spec, index=index, num_workers=num_workers)

    def log_probs(self, batch: TrainBatch) -> dict[int, tuple[float, ...]]:
        assert self._model is not None, "start() comes first"
        return self._model.log_probs(batch)


class RolloutWorker:
    """Hosts one rollout engine. An async actor: calls interleave."""

    def __init__(self, log_path: str) -> None:
        redirect_output(log_path)
        self._engine: RolloutEngine | None = None

    @property
    def engine(self) -> RolloutEngine:
        assert self._engine is not None, "start() comes first"
        return self._engine

    async def start(self, engine: EngineName, spec: EngineSpec, gpu_ids: Sequence[str]) -> int:
        """Create the engine and return the policy version that it serves.

        `gpu_ids` are the devices of colocated learner ranks; Ray itself gives this
        actor none in that case.
        """
        if gpu_ids:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
        prepare_here(spec.model_path)
        self._engine = await create_engine(engine, spec)
        return await self._engine.policy_version()

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[Sample]:
        async for sample in self.engine.generate(requests):
            yield sample

    async def load_weights(
        self, buckets: Sequence[ray.ObjectRef[np.ndarray]], policy_version: int
    ) -> int:
        """The object-store transport: one call for each engine and sync."""
        from rubric_rl.weight_sync.object_store import bucket_file

        await self.engine.start_weight_update()
        for bucket in buckets:
            with bucket_file(await bucket) as path:
                await self.engine.update_weights(bucket_update_info(path))
        await self.engine.finish_weight_update(policy_version)
        return await self.engine.policy_version()

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        await self.engine.init_weight_transfer(init_info)

    async def start_weight_update(self) -> None:
        await self.engine.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        await self.engine.update_weights(update_info)

    async def finish_weight_update(self, policy_version: int) -> None:
        await self.engine.finish_weight_update(policy_version)

    async def policy_version(self) -> int:
        return await self.engine.policy_version()

    async def sleep(self) -> None:
        await self.engine.sleep()

    async def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSetup:
    """What a judge worker is built from; all of it crosses nodes."""

    config: JudgeConfig
    """With the hosted servers' addresses as endpoints, where there are such."""
    identity: JudgeIdentity | None
    """None: rules only."""
    templates: JudgeTemplates
    budget_name: str
    account: str
    """Whose money it is: the id of the run."""
    cache_dir: str | None
    """None: no cache."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What a reward model computes on."""


class JudgeWorker:
    """Hosts one judge. An async actor: many samples at once.

    All of it is in the constructor, so that a restarted actor is whole again.
    """

    def __init__(self, log_path: str, setup: JudgeSetup, secrets: Mapping[str, str]) -> None:
        """`secrets`: environment variables to set, such as the endpoint's key."""
        redirect_output(log_path)
        os.environ.update(secrets)
        self._setup = setup
        self._judge: RubricJudge | RewardModelJudge | None = None

    async def ready(self) -> str:
        """The template hash, once the judge can be asked."""
        return self._open().template_hash

    async def judge(self, request: JudgeRequest) -> Judgement:
        return await self._open().judge(request)

    def _open(self) -> RubricJudge | RewardModelJudge:
        # Not in the constructor: the judge's background work needs the event loop.
        if self._judge is None:
            self._judge = _open_judge(self._setup)
        return self._judge


def _open_judge(setup: JudgeSetup) -> RubricJudge | RewardModelJudge:
    if setup.config.reward_model is not None:
        from rubric_rl.judging.reward_model import RewardModelJudge

        return RewardModelJudge.open(setup.config.reward_model, setup.device)
    from rubric_rl.judging.assembly import open_judge
    from rubric_rl.judging.cache import VerdictCache
    from rubric_rl.judging.judge import RubricJudge

    if setup.identity is None:
        return RubricJudge(templates=setup.templates)
    from rubric_rl.runtime.judge_budget import RayDispatcher, judge_membership

    # Another one after each start: what a dead process had out must not be taken for ours.
    client = f"{setup.account}:{ray.get_runtime_context().get_actor_id()}:{os.getpid()}"
    membership = judge_membership(setup.config, client=client, account=setup.account)
    return open_judge(
        setup.config,
        setup.identity,
        client=client,
        account=setup.account,
        dispatcher=RayDispatcher(setup.budget_name, membership),
        cache=None if setup.cache_dir is None else VerdictCache(Path(setup.cache_dir)),
        templates=setup.templates,
    )


class JudgeServer:
    """Hosts one vLLM server for the judge."""

    def __init__(self, log_path: str) -> None:
        redirect_output(log_path)
        self._server: VllmServer | None = None

    def start(self, spec: ServerSpec, key: str, timeout_s: float) -> str:
        """Start the server on a free port of this node; returns its address."""
        prepare_here(spec.model_path)
        spec = replace(spec, host=ray.util.get_node_ip_address(), port=free_port())
        self._server = VllmServer(spec, key)
        return self._server.wait(timeout_s)

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
