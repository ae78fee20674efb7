"""A plan in words: every figure with what it was worked out from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rubric_rl.planning.accounts import Account, count
from rubric_rl.planning.assumptions import Assumptions
from rubric_rl.planning.engine_memory import EngineMemory
from rubric_rl.planning.hardware import GIB
from rubric_rl.planning.plan import TrainingPlan
from rubric_rl.planning.workload import JudgeCalls, Workload

_NO_PRICE = "price not known: set judge.llm.usd_per_million_*"


def plan_lines(plan: TrainingPlan) -> Iterator[str]:
    """The plan without its placement and its problems."""
    yield from _model(plan)
    yield ""
    yield from _memory(plan)
    yield ""
    yield from _work(plan)
    yield ""
    yield from _time(plan)
    yield ""
    yield from _assumed(plan.assumptions)
    for note in plan.notes:
        yield f"note: {note}"


def _model(plan: TrainingPlan) -> Iterator[str]:
    shape, name = plan.models.policy, plan.config.model.name_or_path
    tables = "1 table" if shape.tied else "2 tables"
    yield (
        f"model: {name}, {shape.num_parameters:,} parameters = {shape.num_layers} layers x "
        f"{shape.layer_parameters:,} + {tables} x {shape.table_parameters:,} + {shape.hidden:,}"
    )


# ----------------------------------------------------------------------------
# Memory


def _memory(plan: TrainingPlan) -> Iterator[str]:
    where = "GPU" if plan.config.cluster.device == "gpu" else "process"
    yield f"memory of each {where}, GiB"
    for account in (plan.learner.loading, plan.learner.backward, plan.learner.step):
        yield from _account(f"learner rank, {account.when}", account)
    if plan.reference is not None:
        yield from _account("reference worker", plan.reference)
    yield from _engine(plan.engine)
    if plan.judge is not None:
        yield from _engine(plan.judge)
    if plan.takes_turns:
        yield from _account("learner rank, while engines start", plan.learner.starting)
        yield from _account("learner rank, while engines generate", plan.learner.resting)
        yield from _turns(plan)
    yield from _account("learner rank, host memory", plan.learner.host)


def _account(title: str, account: Account) -> Iterator[str]:
    yield f"  {title}: {account.gib:.2f}"
    for part in account.items:
        yield f"    {part.what:<26}{part.num_bytes / GIB:>8.2f}  {part.formula}"


def _engine(engine: EngineMemory) -> Iterator[str]:
    settings = engine.settings
    yield f"  {settings.label}: {engine.limit_gib:.2f} ({_limit(engine)})"
    for part in engine.fixed.items:
        yield f"    {part.what:<26}{part.num_bytes / GIB:>8.2f}  {part.formula}"
    shape = settings.shape
    formula = (
        f"the rest: {count(engine.kv_tokens)} tokens x {settings.kv_bytes:,.0f} B (2 x "
        f"{shape.num_layers} layers x {shape.num_kv_heads} heads x {shape.head_dim} x "
        f"{settings.dtype_bytes} B"
        + (")" if settings.kv_shards == 1 else f" / {settings.kv_shards})")
    )
    yield f"    {'KV cache':<26}{max(0.0, engine.kv_cache_gib):>8.2f}  {formula}"
    yield (
        f"    holds {engine.concurrent_longest:.1f} sequences of the longest "
        f"{settings.max_model_tokens} tokens; at once at most {settings.max_concurrent}"
    )


def _limit(engine: EngineMemory) -> str:
    settings = engine.settings
    if not settings.on_gpu:
        return f"work space + {settings.memory_key}={settings.kv_cache_gib:g}"
    memory = engine.limit_gib / settings.memory_share
    return f"{settings.memory_key}={settings.memory_share:g} x {memory:g} GiB"


def _turns(plan: TrainingPlan) -> Iterator[str]:
    asleep = sum(part.num_bytes for part in plan.engine.asleep) / GIB
    peak, resting = plan.learner.peak, plan.learner.resting
    memory = plan.cluster.gpu.memory_gib if plan.cluster.gpu else None
    has = "" if memory is None else f" of {memory:g}"
    yield (
        f"  learning: {peak.gib:.2f} + {asleep:.2f} of the sleeping engine = "
        f"{peak.gib + asleep:.2f}{has}"
    )
    for when, account in (("starting", plan.learner.starting), ("generating", resting)):
        yield (
            f"  {when}: {account.gib:.2f} + {plan.engine.limit_gib:.2f} of the engine = "
            f"{account.gib + plan.engine.limit_gib:.2f}{has}"
        )


# ----------------------------------------------------------------------------
# Work and time


def _work(plan: TrainingPlan) -> Iterator[str]:
    work, config = plan.work, plan.config
    figures, rollout = work.figures, config.rollout
    yield f"prompts: {figures.num_train} training, {figures.num_eval} held out ({figures.source})"
    yield (
        f"steps: {work.steps}, each {rollout.prompts_per_step} prompts x "
        f"{rollout.samples_per_prompt} samples = {work.samples_per_step} samples"
    )
    yield (
        f"tokens of a step: {count(work.tokens_per_step)} through the learner, of which "
        f"{count(work.generated_per_step)} generated = {work.samples_per_step} x "
        f"{figures.completion_tokens:g}; prompts have {figures.prompt_tokens:g}"
    )
    yield (
        f"tokens generated in all: {count(work.generated)}, in {work.steps} steps and "
        f"{work.evaluations} evaluations of {work.samples_per_evaluation} samples"
    )
    yield from _judging(plan, work)


def _judging(plan: TrainingPlan, work: Workload) -> Iterator[str]:
    llm = plan.config.judge.llm
    if llm is None:
        yield "judge calls: none, criteria are checked by rules"
    else:
        per_sample = _calls(work.figures.per_sample)
        yield f"judge calls of a sample ({llm.model}, mode {llm.mode}): {per_sample}"
        yield f"judge calls of a step: {_calls(work.judging_per_step)}"
        yield f"judge calls in all: {_calls(work.judging)}"
    if work.proposals:
        cost = "price not known" if work.proposals_usd is None else f"{work.proposals_usd:.2f} USD"
        yield f"proposals for rubrics: at most {work.proposals}, {cost}"


def _calls(calls: JudgeCalls) -> str:
    cost = _NO_PRICE if calls.usd is None else f"{calls.usd:,.4g} USD"
    return (
        f"{count(calls.calls)}, {count(calls.prompt_tokens)} prompt and "
        f"{count(calls.reply_tokens)} reply tokens, {cost}"
    )


def _time(plan: TrainingPlan) -> Iterator[str]:
    time, run_s = plan.time, plan.run_s
    if time is None or run_s is None:
        yield f"time of a step: not estimated ({_why_no_time(plan)})"
        return
    yield f"time of a step: {time.seconds:.0f} s" + (
        ", the slower of generation and learning" if time.overlaps else ""
    )
    for part in time.parts:
        yield f"  {part.what:<14}{part.seconds:>8.1f}  {part.formula}"
    gpus = int(plan.cluster.resources["GPU"])
    yield (
        f"time in all: {run_s / 3600:.1f} h with evaluations, {run_s / 3600 * gpus:.0f} GPU hours "
        "of the whole cluster; starting, checkpoints and refinement come on top"
    )


def _why_no_time(plan: TrainingPlan) -> str:
    if plan.config.cluster.device == "cpu":
        return "cluster.device=cpu: run a few steps"
    if not plan.engine.kv_tokens:
        return "an engine has no room"
    return "give --gpu-tflops and --gpu-bandwidth-gbs"


def _assumed(assumptions: Assumptions) -> Iterator[str]:
    yield "assumed (change one with --assume NAME=VALUE):"
    values = [
        f"{field.name}={getattr(assumptions, field.name)}"
        for field in dataclasses.fields(assumptions)
    ]
    for start in range(0, len(values), 3):
        yield f"  {'  '.join(values[start : start + 3])}"
