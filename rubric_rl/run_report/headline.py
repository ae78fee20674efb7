"""What a run was and what it did, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rubric_rl.observability.report import EvalComparison, Interval
from rubric_rl.run_report.bottleneck import find_bottleneck, measured_s
from rubric_rl.run_report.markup import Html, element, join, paragraph, section, table, text
from rubric_rl.run_report.phases_chart import phases_html
from rubric_rl.run_report.records import Run
from rubric_rl.run_report.settings import Settings

_UNKNOWN = "not recorded"


def headline_html(run: Run) -> Html:
    """Facts, what is missing, and where the time went."""
    facts = (
        join([element("dt", text(name)), element("dd", text(words))]) for name, words in _facts(run)
    )
    notes = (paragraph(note, "warning") for note in run.notes)
    return join([element("dl", *facts, class_="facts"), *notes])


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "Reward", reward_words(run)
    yield "Model", run.settings.text("model.name_or_path") or _UNKNOWN
    yield "Algorithm", algorithm_words(run.settings)
    yield "Rubrics", condition_words(run.settings)
    yield "Judge", run.settings.text("judge.llm.model") or "rules only, no model"
    yield "Data", _data_words(run)
    yield "Steps", f"{run.num_steps}, {len(run.refined_at)} refinements"
    yield "Time", _time_words(run)
    yield "Folder", str(run.path)


def reward_words(run: Run) -> str:
    """Before and after with their intervals."""
    if run.comparison is None:
        return "no two held-out evaluations to compare"
    c = run.comparison
    under = "the run's first rubrics" if c.is_anchored else "the rubrics in force"
    return (
        f"{c.before.mean:.3f} {span(c.before)} at step {c.step_before}, "
        f"{c.after.mean:.3f} {span(c.after)} at step {c.step_after}: "
        f"{c.difference.mean:+.3f} {span(c.difference, '+')} over {c.num_prompts} held-out "
        f"prompts, under {under}{_left_out(c)}. 95 % intervals by a bootstrap over prompts"
    )


def _left_out(comparison: EvalComparison) -> str:
    left_out = comparison.num_prompts_left_out
    return f" ({left_out} more left out: no scored sample before or after)" if left_out else ""


def span(interval: Interval, sign: str = "") -> str:
    return f"[{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def algorithm_words(settings: Settings) -> str:
    """As in `grpo advantages, ppo loss, KL 0.01 in the loss`."""
    advantage = settings.text("algorithm.advantage")
    if advantage is None:
        return _UNKNOWN
    return (
        f"{advantage} advantages, {settings.text('algorithm.policy_loss')} loss, "
        f"KL {settings.text('algorithm.kl_coef')} in the {settings.text('algorithm.kl_in')}, "
        f"learning rate {settings.text('learner.learning_rate')}"
    )


def condition_words(settings: Settings) -> str:
    """The condition that the rubrics were made under."""
    if not settings.is_on("refinement.enabled"):
        return "as they were given, not refined during training"
    gate = "behind the gate" if settings.is_on("refinement.gate.enabled") else "without a gate"
    return (
        f"refined in {settings.text('refinement.rounds')} rounds a pass by the "
        f"{settings.text('refinement.proposer.kind')} proposer, pairs "
        f"{settings.text('refinement.pair_strategy')} of up to "
        f"{settings.text('refinement.pool_size')} answers, {gate}"
    )


def _data_words(run: Run) -> str:
    path = run.settings.text("data.path") or _UNKNOWN
    per_step = run.settings.text("rollout.prompts_per_step")
    samples = run.settings.text("rollout.samples_per_prompt")
    return f"{path}, {per_step} prompts x {samples} samples a step"


def _time_words(run: Run) -> str:
    elapsed = run.steps[-1].time - run.steps[0].time
    return (
        f"{duration(measured_s(run.steps))} in steps, evaluations, refinements and waits for "
        f"checkpoints; {duration(elapsed)} from the first record to the last"
    )


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ----------------------------------------------------------------------------
# Time


def time_html(run: Run, *, level: int) -> Html:
    """The bottleneck in a sentence, the phases in a figure and a table."""
    found = find_bottleneck(run.steps, run.settings)
    if found is None:
        return section(
            "Where the time went",
            paragraph("No step says what it took: there is none beside evaluations yet.", "note"),
            level=level,
        )
    rows = [
        (p.name, p.metric, f"{p.median_s:.3g}", str(p.count), duration(p.total_s), f"{p.share:.0%}")
        for p in found.phases
    ]
    phases = table(
        ("phase", "metric", "median, s", "steps", "median x steps", "share"),
        rows,
        caption="Phases, longest first",
        numbers=4,
    )
    figure = phases_html(run.steps)
    return section(
        "Where the time went",
        element("p", code_words(found.sentence), class_="bottleneck"),
        element("div", figure, element("div", phases), class_="sides"),
        level=level,
    )


def code_words(words: str) -> Html:
    """Words in which `settings` stand between back-quotes."""
    parts = words.split("`")
    return join(element("code", text(p)) if i % 2 else text(p) for i, p in enumerate(parts))


def bottleneck_words(runs: Sequence[Run]) -> Html:
    """Of several runs, one sentence each."""
    found = [(run, find_bottleneck(run.steps, run.settings)) for run in runs]
    return join(
        element(
            "p",
            element("strong", text(f"{run.label}: ")),
            code_words(bottleneck.sentence),
            class_="bottleneck",
        )
        for run, bottleneck in found
        if bottleneck is not None
    )
