"""Run a supervised baseline on Ray: SFT of the policy, or a Bradley-Terry reward model.

    run folder -> Ray -> learner ranks -> loop -> export

The same learner ranks, checkpoints and export as for reinforcement fine-tuning; nothing else
is started.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass

import ray

from rubric_rl.baselines.loop import SupervisedRun, first_state, total_steps
from rubric_rl.baselines.preference_pairs import TokenPairs
from rubric_rl.baselines.sft_examples import Examples
from rubric_rl.baselines.tasks import RewardTask, SftTask, Task
from rubric_rl.config.algorithm import AlgorithmConfig
from rubric_rl.config.compose import to_yaml
from rubric_rl.config.schema import Config
from rubric_rl.controller import checkpoints
from rubric_rl.controller.run_folder import OpenedRun, open_run
from rubric_rl.controller.state import TrainState
from rubric_rl.errors import RunFolderError
from rubric_rl.learner.spec import LearnerSpec
from rubric_rl.observability.console import Console, quiet_logging
from rubric_rl.runtime.actors import LearnerWorker, RewardLearnerWorker
from rubric_rl.runtime.cluster import node_resources, ray_cluster, reserve
from rubric_rl.runtime.launch import INTERRUPTED, stop_on_signal
from rubric_rl.runtime.learner_group import RayLearnerGroup, RayPairLearner
from rubric_rl.runtime.placement import check_plan, plan_learners
from rubric_rl.runtime.tracking import open_tracking
from rubric_rl.runtime.waiting import Waiting
from rubric_rl.runtime.workers import start_learners

# -A log p with A = 1, a mean over the step's tokens: the negative log-likelihood.
_SFT_ALGORITHM = AlgorithmConfig(advantage="best_of_group", policy_loss="rft", kl_coef=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedJob:
    """What is to be trained, checked."""

    config: Config
    model_path: str
    data: Examples | TokenPairs
    account: str
    """What was read and what was left out, in words."""

    @property
    def per_step(self) -> int:
        config = self.config
        is_sft = isinstance(self.data, Examples)
        return config.sft.samples_per_step if is_sft else config.bradley_terry.pairs_per_step

    @property
    def num_steps(self) -> int:
        return total_steps(self.config, len(self.data.train), self.per_step)

    @property
    def spec(self) -> LearnerSpec:
        """Without a reference policy, which nothing is compared with."""
        return LearnerSpec(
            model_path=self.model_path,
            model=self.config.model,
            learner=self.config.learner.model_copy(update={"reference": "none"}),
            algorithm=_SFT_ALGORITHM,
            device=self.config.cluster.device,
            num_steps=self.num_steps,
            seed=self.config.run.seed,
        )

    def task(self, ranks: RayLearnerGroup) -> Task:
        """The data with what learns from it."""
        if isinstance(self.data, Examples):
            return SftTask(learner=ranks, examples=self.data, per_step=self.per_step)
        learner = RayPairLearner(ranks)
        return RewardTask(learner=learner, pairs=self.data, per_step=self.per_step)


def run_supervised(job: SupervisedJob) -> int:
    """Train from the start or from the newest checkpoint, and export. Returns the exit code.

    Raises:
        RubricRLError: what went wrong, in words; the newest checkpoint stands.
    """
    config = job.config
    console = Console(progress=config.logging.progress)
    opened = open_run(config, to_yaml(config))
    with ExitStack() as stack:
        stack.callback(console.close)
        stack.enter_context(quiet_logging(opened.folder.root, console))
        console.note(f"run folder: {opened.folder.root}\n{job.account}")
        stack.enter_context(ray_cluster(config.cluster))
        check_plan(plan_learners(config), ray.cluster_resources(), node_resources())
        return asyncio.run(_train(job, opened, console))


async def _train(job: SupervisedJob, opened: OpenedRun, console: Console) -> int:
    config, root = job.config, opened.folder.root
    waiting = Waiting(show=console.status, log_dir=str(opened.folder.logs.resolve()))
    stop = asyncio.Event()
    with stop_on_signal(stop, console), ExitStack() as stack:
        reserved = await reserve(plan_learners(config), waiting, config.cluster.start_timeout_s)
        stack.callback(reserved.release)
        worker = LearnerWorker if isinstance(job.data, Examples) else RewardLearnerWorker
        run_file = opened.folder.run_json.resolve()
        ranks = await start_learners(config, job.spec, reserved, waiting, worker, run_file)
        opened = await checkpoints.restore_newest(opened, config, ranks, warn=console.warn)
        task = job.task(ranks)
        state = _start(opened, task.data_hash)
        console.begin(job.num_steps, completed=state.step)
        tracking = open_tracking(config, opened, console, stack.callback)
        run = SupervisedRun(
            config=config,
            task=task,
            learner=ranks,
            folder=opened.folder,
            sinks=tracking.sinks,
            artifacts=tracking.artifacts,
            stop=stop,
        )
        state = await run.run(state)
    console.close()
    if state.step < job.num_steps:
        console.note(f"stopped after step {state.step}; go on with run.dir={root} run.resume=auto")
        return INTERRUPTED
    console.note(f"trained: {root / 'model'}")
    return 0


def _start(opened: OpenedRun, data_hash: str) -> TrainState:
    """Where to begin. Raises RunFolderError if the checkpoint was made with other data."""
    if opened.checkpoint is None:
        return first_state(data_hash)
    state, _ = checkpoints.read(opened.checkpoint)
    if state.data_hash != data_hash:
        raise RunFolderError(
            f"checkpoint {str(opened.checkpoint.path)!r} was made with other examples than the "
            "files hold now: restore them, or set another run.dir"
        )
    return state
