"""What a run was, what it did, and where its time went."""

from __future__ import annotations

from collections.abc import Iterator

from rubric_rl.observability.report import Interval
from rubric_rl.run_report.bottleneck import PHASES, bottleneck, measured_s, phase_times
from rubric_rl.run_report.markup import EMPTY, Html, element, join, note, section, table, text
from rubric_rl.run_report.phases_chart import phases_html
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.settings import Settings


def headline_html(run: Run) -> Html:
    """Facts, and what is missing."""
    facts = (
        join([element("dt", text(name)), element("dd", text(words))]) for name, words in _facts(run)
    )
    missing = (note(words, "warning") for words in run.notes)
    return join([element("dl", *facts, class_="facts"), *missing])


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    settings, steps = run.settings, run.steps
    yield "Reward", reward_words(run)
    yield "Model", _known(settings, "model.name_or_path")
    yield "Algorithm", algorithm_words(settings)
    yield "Rubrics", condition_words(settings)
    yield "Judge", settings.text("judge.llm.model") or "rules only, no model"
    per_step = _known(settings, "rollout.prompts_per_step")
    samples = _known(settings, "rollout.samples_per_prompt")
    yield "Data", f"{_known(settings, 'data.path')}, {per_step} prompts x {samples} samples a step"
    yield "Steps", f"{steps[-1].step}, refinements: {len(run.refined_at)}"
    yield (
        "Time",
        f"{duration(measured_s(steps))} in steps, evaluations, refinements and waits for "
        f"checkpoints; {duration(steps[-1].time - steps[0].time)} from first to last record",
    )
    yield "Folder", str(run.path)


def _known(settings: Settings, key: str) -> str:
    return settings.text(key) or "not recorded"


def reward_words(run: Run) -> str:
    """Before and after with their intervals."""
    if (c := run.comparison) is None:
        return "no two held-out evaluations to compare"
    under = "the run's first rubrics" if c.is_anchored else "the rubrics in force"
    left_out = f" ({c.num_prompts_left_out} without a scored sample)" * bool(c.num_prompts_left_out)
    return (
        f"{c.before.mean:.3f} {_span(c.before)} at step {c.step_before}, "
        f"{c.after.mean:.3f} {_span(c.after)} at step {c.step_after}: "
        f"{c.difference.mean:+.3f} {_span(c.difference, '+')} over {c.num_prompts} held-out "
        f"prompts{left_out}, under {under}. 95 % intervals by a bootstrap over prompts"
    )


def _span(interval: Interval, sign: str = "") -> str:
    return f"[{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def algorithm_words(settings: Settings) -> str:
    """As in `grpo advantages, ppo loss, KL 0.01 in the loss, learning rate 1e-05`."""
    return (
        f"{_known(settings, 'algorithm.advantage')} advantages, "
        f"{_known(settings, 'algorithm.policy_loss')} loss, "
        f"KL {_known(settings, 'algorithm.kl_coef')} in the "
        f"{_known(settings, 'algorithm.kl_in')}, "
        f"learning rate {_known(settings, 'learner.learning_rate')}"
    )


def condition_words(settings: Settings) -> str:
    """The condition that the rubrics were made under."""
    if not settings.is_on("refinement.enabled"):
        return "as they were given, not refined during training"
    return (
        f"refined in {_known(settings, 'refinement.rounds')} rounds a pass by the "
        f"{_known(settings, 'refinement.proposer.kind')} proposer, pairs "
        f"{_known(settings, 'refinement.pair_strategy')} of up to "
        f"{_known(settings, 'refinement.pool_size')} answers, "
        f"{'behind the' if settings.is_on('refinement.gate.enabled') else 'without a'} gate"
    )


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ----------------------------------------------------------------------------
# Time


def bottleneck_html(run: Run, name: str = "") -> Html:
    """The sentence, after the run's name if one is given; empty if nothing was timed."""
    phases = phase_times(run.steps)
    if not phases:
        return EMPTY
    # Settings stand between back-quotes.
    parts = bottleneck(phases, run.settings).split("`")
    words = (element("code", text(p)) if i % 2 else text(p) for i, p in enumerate(parts))
    named = element("strong", text(f"{name}: ")) if name else EMPTY
    return element("p", named, *words, class_="bottleneck")


def time_html(run: Run, *, level: int) -> Html:
    """The phases in a figure and a table."""
    phases = phase_times(run.steps)
    if not phases:
        return section("Where the time went", note("Nothing was timed yet."), level=level)
    rows = [
        (
            PHASES[p.metric],
            p.metric,
            f"{p.median_s:.3g}",
            str(p.count),
            duration(p.median_s * p.count),
            f"{p.share:.0%}",
        )
        for p in phases
    ]
    head = ("phase", "metric", "median, s", "steps", "median x steps", "share")
    sides = (phases_html(run.steps), table("Phases, longest first", head, rows, numbers=4))
    return section("Where the time went", element("div", *sides, class_="sides"), level=level)
