"""The laboratory's report: tables, and a conclusion in words that is computed from the figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rubric_rl.lab.comparison import MIN_SEEDS, ConditionCurve, Difference, Verdict
from rubric_rl.lab.measures import MEASURES, RunCurves
from rubric_rl.lab.plan import INITIAL, LabPlan, RunPlan
from rubric_rl.refinement.records import Candidate

PRIMARY = "great_diverse_pairs"
"""The comparison that the conclusion is about; named before any run."""
_TOP_SHARE = 0.1
_SAYS: dict[Verdict, str] = {
    "delays": "delays the decline of the gold reward",
    "does not delay": "does not delay the decline of the gold reward",
    "cannot tell": "can't be told to delay the decline of the gold reward or not",
}
_FIXED = """\
The gold rubric, the writers' habits, the first rubrics, the bank (of one weight and in an order
drawn for each prompt and seed; 10 criteria near the gold rubric, 6 away from it, 4 idle), the
onset rule, the verdict's rule and the primary comparison were fixed before any training. The
policy's size, the number of steps, and now the shares of the writers in what it learns from, the
longest answer and the learning rate were set on runs of `initial` alone with another seed. These
three were set again after a first attempt of one seed in all conditions, in which gold fell from
step 10 on whatever the rubric: it started from worse answers and cut them at 48 tokens. Answers
that are cut were left out of its loss, until a run that had stopped ending its answers had nothing
left to learn from; now they are trained on. The verdict was made stricter then: it takes three
seeds, and a decline of `initial` in nearly all resamples. What the small policy starts from bounds
what can be seen: see the table of proxies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the report says beside the curves."""

    num_criteria: Mapping[str, float]
    """Criteria of a rubric, mean, by condition."""
    source_gold: Mapping[str, float]
    """Mean gold reward of a source's answers in the pools."""
    seconds: Mapping[str, float]
    """By stage, over all invocations."""


def report(
    plan: LabPlan,
    curves: Sequence[ConditionCurve],
    differences: Sequence[Difference],
    facts: Facts,
) -> str:
    """Markdown."""
    parts = [
        "# Laboratory: do refined rubrics delay over-optimisation?",
        conclusion(curves, differences),
        _set_up(plan, curves, facts),
        "## Conditions\n\n" + _conditions(curves, facts),
        "Onset of decline: the first evaluated step after the peak from which gold stays below the "
        "peak by more than one standard error of the paired difference, to the end. KL is in nats "
        "a token, over the last steps; ties is the share of a prompt's answers that share the best "
        "proxy reward; cut is the share that reached the longest length.",
        "## Against the initial rubrics\n\n" + _differences(differences),
        "95 % intervals from resampling seeds and prompts together. No decline counts as an onset "
        "one evaluation after the last step. `delays`: the whole interval of the delay is above "
        "0; `does not delay`: all of it is at most 0; else, or if `initial` did not decline in "
        f"95 % of the resamples, or of fewer than {MIN_SEEDS} seeds, it can't be told. A delay is "
        f"known to an evaluation, {plan.eval_every} steps.",
        "## Proxies before training\n\n" + _before(curves),
        "![Gold and proxy by step](curves.png)\n\n![Gold by KL](by_kl.png)",
        "## Time\n\n" + _time(facts),
    ]
    return "\n\n".join(parts) + "\n"


def conclusion(curves: Sequence[ConditionCurve], differences: Sequence[Difference]) -> str:
    """What was found, in words."""
    by_name = {curve.condition: curve for curve in curves}
    if INITIAL not in by_name or not differences:
        return "**No conclusion**: it takes `initial` and a refined condition to compare."
    initial = by_name[INITIAL]
    sentences = [_initial_in_words(initial)]
    ordered = sorted(differences, key=lambda d: d.condition != PRIMARY)
    for difference in ordered:
        lead = "Primary comparison: " if difference.condition == PRIMARY else ""
        delay = difference.delay_steps
        sentences.append(
            f"{lead}`{difference.condition}` {_SAYS[difference.verdict]}: {delay.value:+.0f} steps "
            f"({delay.low:+.0f} to {delay.high:+.0f}); gold at the end {difference.final_gold}, "
            f"loss since the peak {difference.loss} against `initial`."
        )
    if initial.num_seeds < MIN_SEEDS:
        sentences.append(f"With {initial.num_seeds} seed(s) the intervals say little about seeds.")
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _initial_in_words(initial: ConditionCurve) -> str:
    gold = initial.means["gold"]
    way = f"from {gold[0]:.3f} at the start to {gold[initial.decline.peak]:.3f} at step "
    way += f"{initial.peak_step} and {gold[-1]:.3f} at step {initial.steps[-1]}"
    if initial.onset_step is None:
        return f"Gold under `initial` went {way}: no decline, so there is nothing to delay."
    return f"Gold under `initial` went {way}: it declines from step {initial.onset_step} on."


# ----------------------------------------------------------------------------
# Sections


def _set_up(plan: LabPlan, curves: Sequence[ConditionCurve], facts: Facts) -> str:
    overrides = f" Overrides: {' '.join(plan.overrides)}." if plan.overrides else ""
    gold = ", ".join(f"{name} {value:.2f}" for name, value in facts.source_gold.items())
    return (
        f"## Set-up\n\nSeeds {', '.join(map(str, plan.seeds))}; {plan.steps} GRPO steps, evaluated "
        f"every {plan.eval_every} on {curves[0].num_prompts} held-out prompts.{overrides} Mean "
        f"gold reward of the pools' sources: {gold}. All runs start from one policy.\n\n{_FIXED}"
    )


def _conditions(curves: Sequence[ConditionCurve], facts: Facts) -> str:
    header = (
        "condition", "criteria", "gold start", "gold peak (step)", "onset", "gold end (95 %)",
        "gold win rate end", "proxy start", "proxy end", "KL", "words", "ties", "cut",
    )  # fmt: skip
    rows = []
    for curve in curves:
        gold, peak = curve.means["gold"], curve.decline.peak
        last = {name: values[-1] for name, values in curve.means.items()}
        rows.append(
            (
                curve.condition,
                f"{facts.num_criteria[curve.condition]:.1f}",
                f"{gold[0]:.3f}",
                f"{gold[peak]:.3f} ({curve.peak_step})",
                "none" if curve.onset_step is None else str(curve.onset_step),
                f"{gold[-1]:.3f} ({curve.low['gold'][-1]:.3f} to {curve.high['gold'][-1]:.3f})",
                f"{last['win']:.3f}",
                f"{curve.means['proxy'][0]:.3f}",
                *(f"{last[name]:.3f}" for name in ("proxy", "kl")),
                f"{last['words']:.1f}",
                *(f"{last[name]:.2f}" for name in ("ties", "cut")),
            )
        )
    return _table(header, rows)


def _differences(differences: Sequence[Difference]) -> str:
    rows = [
        (
            d.condition,
            f"{d.delay_steps.value:+.0f} ({d.delay_steps.low:+.0f} to {d.delay_steps.high:+.0f})",
            str(d.final_gold),
            str(d.loss),
            d.verdict,
        )
        for d in differences
    ]
    return _table(("condition", "delay, steps", "gold at the end", "loss since peak", "so"), rows)


def _before(curves: Sequence[ConditionCurve]) -> str:
    """How each proxy goes with gold on the start policy's answers, in all and at the top."""
    rows = []
    for curve in curves:
        proxy, gold = curve.start_scores
        top = proxy >= np.quantile(proxy, 1 - _TOP_SHARE)
        varies = proxy.std() > 0 and gold.std() > 0
        rows.append(
            (
                curve.condition,
                f"{np.corrcoef(proxy, gold)[0, 1]:.2f}" if varies else "-",
                f"{gold.mean():.3f}",
                f"{gold[top].mean():.3f}",
                f"{gold[proxy == proxy.max()].mean():.3f}",
            )
        )
    header = ("condition", "correlation with gold", "gold, all", "gold, top tenth by proxy",
              "gold, best by proxy")  # fmt: skip
    return _table(header, rows)


def _time(facts: Facts) -> str:
    total = sum(facts.seconds.values())
    stages = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in facts.seconds.items())
    return f"{total / 60:.1f} minutes of this command's clock in all ({stages})."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ----------------------------------------------------------------------------
# CSV


def curves_csv(curves: Sequence[ConditionCurve]) -> str:
    """A line for each condition and evaluated step."""
    columns = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    rows: list[list[object]] = []
    for curve in curves:
        for k, step in enumerate(curve.steps):
            tables = (curve.means, curve.low, curve.high)
            values = [table[name][k] for name in MEASURES for table in tables]
            rows.append([curve.condition, step, curve.means["kl"][k], *values])
    return _csv(["condition", "step", "kl", *columns], rows)


def runs_csv(runs: Sequence[RunCurves]) -> str:
    """A line for each run and evaluated step, with the run folder that it is from."""
    rows: list[list[object]] = []
    for run in runs:
        name = RunPlan(condition=run.condition, seed=run.seed).name
        for k, step in enumerate(run.steps):
            means = (run[measure][k].mean() for measure in MEASURES)
            rows.append([run.condition, run.seed, step, run.kl_K[k], *means, f"runs/{name}"])
    return _csv(["condition", "seed", "step", "kl", *MEASURES, "run"], rows)


def differences_csv(differences: Sequence[Difference]) -> str:
    """A line for each condition compared with `initial`."""
    rows: list[list[object]] = []
    for d in differences:
        ends = [x for i in (d.delay_steps, d.final_gold, d.loss) for x in (i.value, i.low, i.high)]
        rows.append([d.condition, *ends, d.verdict])
    figures = ("delay_steps", "final_gold", "loss")
    names = [f"{figure}{end}" for figure in figures for end in ("", "_low", "_high")]
    return _csv(["condition", *names, "verdict"], rows)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row])
    return text.getvalue()


def mean_gold(pool: Sequence[Candidate], scores: Sequence[float]) -> dict[str, float]:
    """Mean gold reward by source; sources that differ in their number only are taken together."""
    by_source: dict[str, list[float]] = {}
    for candidate, score in zip(pool, scores, strict=True):
        name = candidate.source
        by_source.setdefault("great & diverse" if "_" in name else name, []).append(score)
    return {name: float(np.mean(own)) for name, own in sorted(by_source.items())}
