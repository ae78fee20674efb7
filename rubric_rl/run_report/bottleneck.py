"""Where a run's time went, and what would make it shorter.

A phase takes its median over the steps that have it, times their number: a first step
that compiles, or one hiccup, then doesn't decide. Shares are of the sum over all phases.

    time/step_s = rollout + judge wait + reference + learner + weight sync + the rest
    beside it: refinement, evaluation, waiting for a checkpoint
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rubric_rl.run_report.records import StepMetrics
from rubric_rl.run_report.settings import Settings

STEP = "time/step_s"
REST = "rest"

IN_STEP: Mapping[str, str] = {
    "time/rollout_s": "generation",
    "time/judge_wait_s": "waiting for the judge",
    "time/reference_s": "the reference",
    "time/learner_s": "the learner",
    "time/weight_sync_s": "weight sync",
}
"""Parts of `time/step_s`, in the order in which they happen."""
BESIDE_STEP: Mapping[str, str] = {
    "time/refinement_s": "refinement",
    "time/eval_s": "held-out evaluation",
    "time/checkpoint_s": "waiting for checkpoints",
}
PHASES: Mapping[str, str] = {**IN_STEP, REST: "the rest of a step", **BESIDE_STEP}
"""All phases by metric, with their names."""

# Two phases whose shares are nearer than this take about as much.
_NEAR = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTime:
    """What one phase of a run took."""

    metric: str
    median_s: float
    count: int
    """Steps that have it."""
    share: float
    """Of the sum over phases of median times count."""

    @property
    def name(self) -> str:
        return PHASES[self.metric]

    @property
    def total_s(self) -> float:
        return self.median_s * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """The phases, longest first, and the sentence about them."""

    phases: tuple[PhaseTime, ...]
    sentence: str


def find_bottleneck(steps: Sequence[StepMetrics], settings: Settings) -> Bottleneck | None:
    """None if no step says how long anything took."""
    phases = phase_times(steps)
    if not phases:
        return None
    first = phases[0]
    near = [phase for phase in phases[1:2] if first.share - phase.share < _NEAR]
    words = f"The bottleneck is {_described(first)}."
    if near:
        words = f"Two phases take about as much: {_described(first)}, and {_described(near[0])}."
    advice = [advice_on(phase.metric, steps, settings) for phase in (first, *near)]
    return Bottleneck(phases=phases, sentence=" ".join([words, *advice]))


def phase_times(steps: Sequence[StepMetrics]) -> tuple[PhaseTime, ...]:
    """Each phase that took any time, longest first."""
    seconds = [seconds_by_phase(line) for line in steps]
    found = {
        metric: [own[metric] for own in seconds if metric in own]
        for metric in PHASES
        if any(metric in own for own in seconds)
    }
    totals = {metric: median(own) * len(own) for metric, own in found.items()}
    whole = sum(totals.values())
    phases = [
        PhaseTime(
            metric=metric,
            median_s=median(found[metric]),
            count=len(found[metric]),
            share=total / whole,
        )
        for metric, total in totals.items()
        if total > 0
    ]
    return tuple(sorted(phases, key=lambda phase: -phase.share))


def seconds_by_phase(line: StepMetrics) -> dict[str, float]:
    """One step's seconds by metric, what is left of the step itself as `REST`."""
    own = {metric: line.values[metric] for metric in PHASES if metric in line.values}
    if STEP in line.values:
        measured = sum(own[metric] for metric in IN_STEP if metric in own)
        # With max_staleness above 0 phases overlap and their sum exceeds the step.
        own[REST] = max(0.0, line.values[STEP] - measured)
    return own


def measured_s(steps: Sequence[StepMetrics]) -> float:
    """Seconds of all steps, refinements, evaluations and waits for checkpoints."""
    names = (STEP, *BESIDE_STEP)
    return sum(line.values[name] for line in steps for name in names if name in line.values)


def _described(phase: PhaseTime) -> str:
    times = "once" if phase.count == 1 else f"{phase.count} times"
    return (
        f"{phase.name} with {phase.share:.0%} of the time (median {phase.median_s:.3g} s, {times})"
    )


# ----------------------------------------------------------------------------
# What to change


def advice_on(metric: str, steps: Sequence[StepMetrics], settings: Settings) -> str:
    """A sentence with the settings that bear on a phase, without those that are set already."""
    hints = list(_HINTS[metric](steps, settings))
    return f"To shorten {PHASES[metric]}: {'; '.join(hints)}."


_TRUNCATED = "rollout/truncated_frac"
_LIMITED = "judge/rate_limited"


def _generation(steps: Sequence[StepMetrics], settings: Settings) -> Iterator[str]:
    cut = [line.values[_TRUNCATED] for line in steps if _TRUNCATED in line.values]
    if settings.text("rollout.engine") == "transformers":
        yield "`rollout.engine=vllm`"
    if settings.text("cluster.device") == "gpu":
        if settings.is_on("rollout.enforce_eager"):
            yield "`rollout.enforce_eager=false`"
        yield "more engines (`rollout.num_workers`, `rollout.tensor_parallel_size`)"
    else:
        yield "a GPU, or more cores for the engines (`rollout.num_threads`)"
    yield "shorter completions (`rollout.max_new_tokens`)" + (
        f", of which {median(cut):.0%} reach that limit" if cut else ""
    )


def _judge(steps: Sequence[StepMetrics], settings: Settings) -> Iterator[str]:
    limited = [line.values[_LIMITED] for line in steps if _LIMITED in line.values]
    refused = max(limited, default=0.0)
    if settings.text("judge.llm.model") is None:
        yield "more judge workers (`judge.num_workers`)"
        return
    if refused:
        yield (
            f"the endpoint answered 429 {refused:.0f} times, so higher limits there or more "
            "endpoints (`judge.llm.extra_endpoints`)"
        )
    else:
        yield "more requests at once (`judge.budget.max_concurrency`)"
    yield "fewer calls for an answer (`judge.llm.mode=all`, `judge.llm.votes=1`)"
    if settings.values.get("judge.cache.enabled") is False:
        yield "the verdict cache (`judge.cache.enabled=true`)"


def _reference(_: Sequence[StepMetrics], __: Settings) -> Iterator[str]:
    yield "more of its workers (`learner.reference_workers`)"
    yield "with adapters the policy without them is the reference (`learner.lora.rank`)"


def _learner(_: Sequence[StepMetrics], settings: Settings) -> Iterator[str]:
    if not settings.is_on("learner.packing"):
        yield "samples without padding (`learner.packing=true`)"
    for key in ("learner.gradient_checkpointing", "learner.offload_optimizer"):
        if settings.is_on(key):
            yield f"`{key}=false` if memory allows"
    if settings.text("cluster.device") == "gpu":
        yield "larger micro-batches (`learner.micro_batch_tokens`)"
        yield "more ranks (`learner.num_workers`)"
    else:
        yield "a GPU, or fewer tokens a step (`rollout.samples_per_prompt`)"


def _weight_sync(_: Sequence[StepMetrics], settings: Settings) -> Iterator[str]:
    if settings.text("cluster.device") == "gpu":
        yield "vLLM's own transports (`cluster.weight_transport=auto`)"
    yield "larger steps (`rollout.prompts_per_step`), so that there are fewer syncs"


def _rest(_: Sequence[StepMetrics], __: Settings) -> Iterator[str]:
    yield "no metric says what it is: the workers' output in `logs/` shows what they waited for"


def _refinement(_: Sequence[StepMetrics], __: Settings) -> Iterator[str]:
    yield "fewer rounds (`refinement.rounds`) or prompts (`refinement.max_prompts`) in a pass"
    yield "fewer passes (`refinement.every_epochs`)"
    yield "held-out prompts left alone (`refinement.refine_eval=false`)"


def _evaluation(_: Sequence[StepMetrics], __: Settings) -> Iterator[str]:
    yield "fewer evaluations (`run.eval_every_steps`)"
    yield "fewer samples in one (`run.eval_samples_per_prompt`, `data.eval_size`)"


def _checkpoint(_: Sequence[StepMetrics], settings: Settings) -> Iterator[str]:
    if settings.text("run.checkpoint_writing") != "async":
        yield "write while the run goes on (`run.checkpoint_writing=async`)"
    yield "fewer of them (`run.checkpoint_every_steps`)"


_HINTS = {
    "time/rollout_s": _generation,
    "time/judge_wait_s": _judge,
    "time/reference_s": _reference,
    "time/learner_s": _learner,
    "time/weight_sync_s": _weight_sync,
    REST: _rest,
    "time/refinement_s": _refinement,
    "time/eval_s": _evaluation,
    "time/checkpoint_s": _checkpoint,
}
