"""Run a configuration: check everything, start the workers, train, report.

    inputs -> run folder -> Ray -> placement -> workers -> controller -> report

This is the only place where all parts meet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from rubric_rl.config.compose import to_yaml
from rubric_rl.config.schema import Config
from rubric_rl.controller import checkpoints
from rubric_rl.controller.archive import CandidateArchive
from rubric_rl.controller.best_checkpoints import describe_best
from rubric_rl.controller.gold_account import describe_gold
from rubric_rl.controller.loop import Controller, Parts
from rubric_rl.controller.run_folder import (
    OpenedRun,
    RunFolder,
    open_run,
    write_dropped,
)
from rubric_rl.controller.schedule import finished, num_steps
from rubric_rl.controller.state import TrainState
from rubric_rl.data.small_model import BUILTIN_NAME, is_prepared
from rubric_rl.errors import DataError, PlacementError, RunFolderError
from rubric_rl.observability.console import Console, quiet_logging
from rubric_rl.observability.report import compare_run
from rubric_rl.observability.report_text import write_report
from rubric_rl.refinement.describe import log_lines, telling_revision
from rubric_rl.refinement.store import RubricStore
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.runtime.cluster import node_resources, ray_cluster, reserve
from rubric_rl.runtime.disk_space import check_disk_space
from rubric_rl.runtime.gold import open_gold
from rubric_rl.runtime.judges import JudgeStart
from rubric_rl.runtime.placement import PlacementPlan, check_plan, describe, plan_placement
from rubric_rl.runtime.preflight import Inputs, check_inputs
from rubric_rl.runtime.refiner import STORE_DIR, open_refinement
from rubric_rl.runtime.tracking import open_tracking
from rubric_rl.runtime.waiting import Waiting
from rubric_rl.runtime.workers import WorkerSettings, start_workers

logger = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code of a run that was stopped and left a checkpoint, as shells use it for SIGINT."""


def dry_run(config: Config) -> int:
    """Show the plan, check data, model and judge; start nothing. Returns the exit code.

    The plan needs no data, so it comes first and whatever else is missing.
    """
    plan = plan_placement(config)
    sys.stdout.write(f"{describe(plan)}\n{_on_this_machine(plan)}\n")
    sys.stdout.flush()
    _announce_preparation(config, Console(progress=False))
    inputs = check_inputs(config)
    steps = num_steps(config, len(inputs.train_prompts))
    sys.stdout.write(f"{inputs.account}\n{steps} steps\n")
    there = RunFolder(root=Path(config.run.dir)).all_checkpoints()
    check_disk_space(config, inputs, num_there=len(there))
    return 0


def _on_this_machine(plan: PlacementPlan) -> str:
    """Whether the plan fits the cores here; what a cluster holds is known when it is joined."""
    node = {"CPU": float(os.cpu_count() or 1)}
    try:
        check_plan(plan, node, [node])
    except PlacementError as err:
        return f"this machine alone would not hold it: {err}"
    return "this machine holds it"


def run_training(config: Config) -> int:
    """Train from the start or from the newest checkpoint. Returns the exit code.

    Raises:
        RubricRLError: what went wrong, in words; the newest checkpoint stands.
    """
    console = Console(progress=config.logging.progress)
    _announce_preparation(config, console)
    inputs = check_inputs(config)
    opened = open_run(config, to_yaml(config))
    check_disk_space(config, inputs, num_there=len(opened.folder.all_checkpoints()))
    with ExitStack() as stack:
        stack.callback(console.close)
        stack.enter_context(quiet_logging(opened.folder.root, console))
        console.note(f"run folder: {opened.folder.root}")
        listed = write_dropped(opened.folder, inputs.dropped)
        console.note(f"{inputs.account}\n  all are in {listed}" if listed else inputs.account)
        run = _Run(config=config, inputs=inputs, opened=opened, console=console)
        stack.enter_context(ray_cluster(config.cluster))
        check_plan(plan_placement(config), ray.cluster_resources(), node_resources())
        return asyncio.run(_train(run))


def _announce_preparation(config: Config, console: Console) -> None:
    # torch says so whenever it is imported beside vLLM's dependencies.
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    cache_dir = Path(config.model.cache_dir) if config.model.cache_dir else None
    if config.model.name_or_path == BUILTIN_NAME and not is_prepared(cache_dir):
        console.note("preparing the packaged model, once: about half a minute")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What has been checked and opened before the workers start."""

    config: Config
    inputs: Inputs
    opened: OpenedRun
    console: Console

    @property
    def start(self) -> tuple[TrainState, RubricSet]:
        """Where to begin, and under which rubrics."""
        if self.opened.checkpoint is None:
            rubrics = self.inputs.rubrics
            return TrainState(
                rubric_version=rubrics.version,
                rubric_hash=rubrics.content_hash,
                data_hash=self.inputs.data_hash,
                gold_hash=self.inputs.gold_hash,
            ), rubrics
        state, rubrics = checkpoints.read(self.opened.checkpoint)
        prompts = {p.prompt_id for p in (*self.inputs.train_prompts, *self.inputs.eval_prompts)}
        is_other = state.data_hash is not None and state.data_hash != self.inputs.data_hash
        if is_other or prompts != {rubric.prompt_id for rubric in rubrics.rubrics}:
            raise RunFolderError(
                f"checkpoint {str(self.opened.checkpoint.path)!r} was made with other prompts than "
                f"data.path={self.config.data.path!r} holds now: restore the file, or set another "
                "run.dir"
            )
        if state.gold_hash != self.inputs.gold_hash:
            raise RunFolderError(
                f"checkpoint {str(self.opened.checkpoint.path)!r} has gold values by other rubrics "
                f"than gold.rubrics={self.config.gold.rubrics!r} holds now, which can't be "
                "compared: restore the file, or set another run.dir"
            )
        return state, rubrics


async def _train(run: _Run) -> int:
    config, console = run.config, run.console
    state, rubrics = run.start
    total = num_steps(config, len(run.inputs.train_prompts))
    console.begin(total, completed=state.step)
    waiting = Waiting(show=console.status, log_dir=str(run.opened.folder.logs.resolve()))
    stop = asyncio.Event()
    with stop_on_signal(stop, console), ExitStack() as stack:
        reserved = await reserve(plan_placement(config), waiting, config.cluster.start_timeout_s)
        stack.callback(reserved.release)
        pools = await start_workers(config, _worker_settings(run, total), reserved, waiting)
        opened = await checkpoints.restore_newest(
            run.opened, config, pools.learner, warn=console.warn
        )
        run = replace(run, opened=opened)
        state, rubrics = run.start
        if opened.checkpoint is not None:
            await checkpoints.restore_judges(opened.checkpoint, pools.judges)
            console.note(f"resumed from {opened.checkpoint.path}")
        refinement = open_refinement(
            config,
            run.inputs.refinement,
            run.inputs.rubrics,
            rubrics,
            run.opened.folder.root,
            run.opened.run_id,
        )
        if refinement is not None:
            stack.callback(refinement.store.close)
        tracking = open_tracking(config, run.opened, console, stack.callback)
        parts = Parts(
            config=config,
            train_prompts=run.inputs.train_prompts,
            eval_prompts=run.inputs.eval_prompts,
            rubrics=rubrics,
            anchor=None if refinement is None else refinement.store.first_rubrics,
            refinement=refinement,
            gold=open_gold(config, run.inputs.gold, run.opened.run_id, run.opened.folder.root),
            archive=_archive(run),
            rollouts=pools.rollouts,
            judges=pools.judges,
            learner=pools.learner,
            reference=pools.reference,
            weight_sync=pools.weight_sync,
            run_folder=run.opened.folder,
            sinks=tracking.sinks,
            artifacts=tracking.artifacts,
            status=console,
            stop=stop,
        )
        state = await Controller(parts).run(state)
    return _close(run, state)


def _worker_settings(run: _Run, num_steps: int) -> WorkerSettings:
    return WorkerSettings(
        model_path=run.inputs.model_path,
        stop_token_ids=run.inputs.stop_token_ids,
        num_steps=num_steps,
        run_file=run.opened.folder.run_json.resolve(),
        judge=JudgeStart(
            run_id=run.opened.run_id,
            identity=run.inputs.judge_identity,
            templates=run.inputs.judge_templates,
            cache_dir=_cache_dir(run),
        ),
    )


def _archive(run: _Run) -> CandidateArchive | None:
    per_prompt = run.config.refinement.on_policy_candidates
    if run.opened.checkpoint is None:
        return None
    return checkpoints.read_archive(run.opened.checkpoint, per_prompt)


def _cache_dir(run: _Run) -> Path | None:
    cache = run.config.judge.cache
    if run.config.judge.llm is None or not cache.enabled:
        return None
    folder = Path(cache.dir) if cache.dir else run.opened.folder.root / "verdicts"
    return folder.resolve()


@contextmanager
def stop_on_signal(stop: asyncio.Event, console: Console) -> Iterator[None]:
    """SIGINT and SIGTERM ask for a clean stop; a second one ends the process."""
    loop = asyncio.get_running_loop()

    def ask() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        console.note("stopping: a checkpoint will be left (again to stop at once)")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _show_refinement(run: _Run) -> None:
    """The accepted change of a rubric that broke most ties, in words."""
    folder = run.opened.folder.root / STORE_DIR
    if not run.config.refinement.enabled or not folder.is_dir():
        return
    store = RubricStore(folder)
    telling = telling_revision(store)
    if telling is None:
        run.console.note("refinement: no proposal was accepted")
        return
    lines = log_lines([telling])
    run.console.show(f"Refined rubric of {telling.prompt_id}\n\n" + "\n".join(lines))


def _close(run: _Run, state: TrainState) -> int:
    """The closing report, or how to go on."""
    root = run.opened.folder.root
    run.console.close()
    if not finished(run.config, state):
        run.console.note(
            f"stopped after step {state.step}; go on with run.dir={root} run.resume=auto"
        )
        return INTERRUPTED
    _show_refinement(run)
    gold = describe_gold(run.config, state)
    try:
        comparison = compare_run(root, seed=run.config.run.seed)
    except DataError as err:
        run.console.note(f"no before-and-after report: {err}")
        if gold is not None:
            run.console.note(gold)
    else:
        best = describe_best(run.opened.folder.checkpoints)
        run.console.show(write_report(comparison, root, best_checkpoint=best, gold=gold))
    return 0
