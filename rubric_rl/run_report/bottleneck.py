"""Where a run's time went, and what would make it shorter.

A phase takes its median over the steps that have it, times their number: a first step
that compiles, or one hiccup, then doesn't decide. Shares are of the sum over all phases.

    time/step_s = rollout + judge wait + reference + learner + weight sync + the rest
    beside it: refinement, evaluation, waiting for a checkpoint
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rubric_rl.run_report.records import StepMetrics
from rubric_rl.run_report.settings import Settings

STEP, REST = "time/step_s", "rest"
IN_STEP = {
    "time/rollout_s": "generation",
    "time/judge_wait_s": "waiting for the judge",
    "time/reference_s": "the reference",
    "time/learner_s": "the learner",
    "time/weight_sync_s": "weight sync",
}
BESIDE_STEP = {
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

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        name = PHASES[self.metric]
        return f"{name} with {self.share:.0%} of the time (median {self.median_s:.3g} s, {times})"


def bottleneck(phases: Sequence[PhaseTime], settings: Settings) -> str:
    """The sentence about the longest of these phases (at least one), settings in back-quotes."""
    near = [phase for phase in phases[:2] if phases[0].share - phase.share < _NEAR]
    if len(near) == 1:
        words = [f"The bottleneck is {near[0]}."]
    else:
        words = [f"Two phases take about as much: {near[0]}, and {near[1]}."]
    for phase in near:
        hints = advice(phase.metric, settings)
        words.append(f"To shorten {PHASES[phase.metric]}: {'; '.join(hints)}.")
    return " ".join(words)


def phase_times(steps: Sequence[StepMetrics]) -> tuple[PhaseTime, ...]:
    """Each phase that took any time, longest first."""
    own = [seconds_by_phase(line) for line in steps]
    found = {metric: [s[metric] for s in own if metric in s] for metric in PHASES}
    medians = {metric: median(seconds) for metric, seconds in found.items() if seconds}
    whole = sum(value * len(found[metric]) for metric, value in medians.items())
    phases = (
        PhaseTime(
            metric=metric,
            median_s=value,
            count=len(found[metric]),
            share=value * len(found[metric]) / whole,
        )
        for metric, value in medians.items()
        if value > 0
    )
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


# ----------------------------------------------------------------------------
# What to change: words, and the settings that make them worth saying

_GPU, _CPU = "cluster.device=gpu", "cluster.device=cpu"
_Hints = tuple[tuple[str, tuple[str, ...]], ...]

HINTS: Mapping[str, _Hints] = {
    "time/rollout_s": (
        ("`rollout.engine=vllm`", ("rollout.engine=transformers",)),
        ("`rollout.enforce_eager=false`", (_GPU, "rollout.enforce_eager=true")),
        ("more engines (`rollout.num_workers`, `rollout.tensor_parallel_size`)", (_GPU,)),
        ("a GPU, or more cores for the engines (`rollout.num_threads`)", (_CPU,)),
        ("shorter completions (`rollout.max_new_tokens`)", ()),
    ),
    "time/judge_wait_s": (
        ("more judge workers (`judge.num_workers`)", ()),
        (
            "more requests at once (`judge.budget.max_concurrency`), or, where the endpoint "
            "answers 429, more endpoints (`judge.llm.extra_endpoints`)",
            ("judge.llm.model!=null",),
        ),
        ("all criteria in one call (`judge.llm.mode=all`)", ("judge.llm.mode!=all",)),
        ("the verdict cache (`judge.cache.enabled=true`)", ("judge.cache.enabled=false",)),
    ),
    "time/reference_s": (
        ("more of its workers (`learner.reference_workers`)", ()),
        ("adapters, without which the policy is the reference (`learner.lora.rank`)", ()),
    ),
    "time/learner_s": (
        ("samples without padding (`learner.packing=true`)", ("learner.packing=false",)),
        (
            "`learner.gradient_checkpointing=false` if memory allows",
            ("learner.gradient_checkpointing=true",),
        ),
        ("`learner.offload_optimizer=false` if memory allows", ("learner.offload_optimizer=true",)),
        (
            "larger micro-batches (`learner.micro_batch_tokens`), more ranks "
            "(`learner.num_workers`)",
            (_GPU,),
        ),
        ("a GPU, or fewer samples a step (`rollout.samples_per_prompt`)", (_CPU,)),
    ),
    "time/weight_sync_s": (
        ("vLLM's own transports (`cluster.weight_transport=auto`)", (_GPU,)),
        ("larger steps, so that there are fewer syncs (`rollout.prompts_per_step`)", ()),
    ),
    REST: (("no metric says what it is, the workers' output in `logs/` may", ()),),
    "time/refinement_s": (
        ("fewer rounds (`refinement.rounds`), prompts (`refinement.max_prompts`)", ()),
        ("fewer passes (`refinement.every_epochs`)", ()),
    ),
    "time/eval_s": (
        ("fewer evaluations (`run.eval_every_steps`)", ()),
        ("fewer samples in one (`run.eval_samples_per_prompt`, `data.eval_size`)", ()),
    ),
    "time/checkpoint_s": (
        ("write while the run goes on (`run.checkpoint_writing=async`)", (_GPU,)),
        ("fewer of them (`run.checkpoint_every_steps`)", ()),
    ),
}


def advice(metric: str, settings: Settings) -> list[str]:
    """What would shorten a phase, without what is set already."""
    return [words for words, needs in HINTS[metric] if all(_holds(n, settings) for n in needs)]


def _holds(need: str, settings: Settings) -> bool:
    """Whether a setting is, or with `!=` isn't, what is said; `null` if it isn't there."""
    key, _, value = need.partition("=")
    is_equal = (settings.text(key.removesuffix("!")) or "null") == value
    return is_equal != key.endswith("!")
