"""Curves of runs, for `rubric-rl eval overopt`: proxy and gold by step, out of run folders.

metrics.jsonl             proxy, KL, length, ties, and gold that was measured during the run
samples/eval_*.jsonl      gold by prompt; with --gold-rubrics the answers are scored again
--gold, --benchmark       figures of `rubric-rl eval` on a checkpoint of a step
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from rubric_rl.commands.eval_winrate_text import WinRateFile
from rubric_rl.config.schema import RubricsConfig
from rubric_rl.data.gold_rubrics import load_gold_rubrics
from rubric_rl.errors import ConfigError, DataError
from rubric_rl.evaluation.healthbench import HealthBenchScore
from rubric_rl.evaluation.overoptimisation import Curve, Gold
from rubric_rl.evaluation.prbench import MEANS, PrbenchScore
from rubric_rl.evaluation.run_curve import (
    GOLD,
    Z95,
    Sourced,
    curve_of,
    means_by_prompt,
    measured_gold,
)
from rubric_rl.judging.agreement import Estimate
from rubric_rl.judging.grading import Answer, grade
from rubric_rl.judging.judge import RubricJudge
from rubric_rl.observability.metrics_file import MetricsLine, read_metrics
from rubric_rl.observability.records import SampleRow, read_rows
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import PromptRecord

_T = TypeVar("_T")

_MAX_IN_FLIGHT = 32


class StepFile(NamedTuple):
    """A file with figures of the policy of one step, as in `RUN:60=win.json`."""

    run: str
    step: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldOptions:
    """Where gold values come from, if not from the runs themselves."""

    files: tuple[StepFile, ...] = ()
    """Win rates."""
    rubrics: str | None = None
    """Prompt file whose rules score the answers again."""
    benchmarks: tuple[StepFile, ...] = ()
    prbench_mean: str = MEANS[0]
    """Which of PRBench's MEANS, over all its questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurve:
    """The curve of one run."""

    run: Path
    curve: Curve
    gold_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Values of one kind by step, with where each is from."""

    what: str
    by_step: dict[int, Sourced] = field(default_factory=dict[int, Sourced])


def step_file(text: str) -> StepFile:
    """Read `RUN:STEP=FILE`. Raises ConfigError."""
    place, _, path = text.partition("=")
    run, _, step = place.rpartition(":")
    if not (run and path and step.isdecimal()):
        raise ConfigError(
            f"{text!r} is not RUN:STEP=FILE: write the run folder's name, the step of the policy "
            "that was evaluated, and the output of `rubric-rl eval`, as in first:60=win_60.json"
        )
    return StepFile(run, int(step), Path(path))


def run_curves(runs: Sequence[Path], options: GoldOptions) -> list[RunCurve]:
    """A curve for each run, in order.

    Raises:
        ConfigError, DataError: a folder or file can't be used, or a run has no gold value.
    """
    names = _names(runs)
    for file in (*options.files, *options.benchmarks):
        if file.run not in names:
            raise ConfigError(
                f"{file.run}:{file.step}={file.path} names no run: there are {', '.join(names)}"
            )
    return [_run_curve(run, name, options) for run, name in zip(runs, names, strict=True)]


def _names(runs: Sequence[Path]) -> list[str]:
    """Names of the folders, with that of the one above where two are alike."""
    short = [run.resolve().name for run in runs]
    long = [f"{run.resolve().parent.name}/{run.resolve().name}" for run in runs]
    names = [n if short.count(n) == 1 else m for n, m in zip(short, long, strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"runs can't be told apart by their folders: {', '.join(twice)}")
    return names


# ----------------------------------------------------------------------------
# One run


def _run_curve(run: Path, name: str, options: GoldOptions) -> RunCurve:
    lines = {line.step: line for line in read_metrics(run)}
    gold = _gold(run, name, lines, options)
    benchmark = {
        f.step: (_benchmark(f.path, options.prbench_mean), str(f.path))
        for f in options.benchmarks
        if f.run == name
    }
    curve = curve_of(name, lines, gold.by_step, benchmark)
    return RunCurve(run=run, curve=curve, gold_source=gold.what)


# ----------------------------------------------------------------------------
# Gold


def _gold(run: Path, name: str, lines: Mapping[int, MetricsLine], options: GoldOptions) -> _Found:
    """Raises DataError if there is none."""
    files = [file for file in options.files if file.run == name]
    if options.rubrics is not None:
        found = _scored_again(run, options.rubrics)
    elif files:
        rates = {f.step: (_win_rate(f.path), f"{f.path} (figures.win_rate)") for f in files}
        found = _Found(what="win rate", by_step=rates)
    else:
        found = _Found(what=GOLD, by_step=measured_gold(run, lines))
    if not found.by_step:
        raise DataError(
            f"run {str(run)!r} has no gold value: configure the section gold when it is trained, "
            "score its answers by rules with --gold-rubrics, or give win rates of its checkpoints "
            f"with --gold {name}:STEP=FILE"
        )
    return found


def _scored_again(run: Path, path: str) -> _Found:
    """The run's held-out answers under the rules of another file, as the run would score them."""
    found = _Found(what=f"rules of {path}")
    config = _rubrics_config(run)
    for file in sorted((run / "samples").glob("eval_*.jsonl")):
        rows = read_rows(file)
        if not rows:
            continue
        records = {row.prompt_id: _record(row) for row in rows}
        rubrics = load_gold_rubrics(path, list(records.values()), key="--gold-rubrics")
        _require_rules(rubrics, path)
        by_prompt = means_by_prompt(asyncio.run(_rewards(rows, records, rubrics, config)))
        if by_prompt:
            found.by_step[rows[0].step] = (Gold.of_prompts(by_prompt), f"samples/{file.name}")
    return found


async def _rewards(
    rows: Sequence[SampleRow],
    records: Mapping[str, PromptRecord],
    rubrics: RubricSet,
    config: RubricsConfig,
) -> list[tuple[str, float | None]]:
    """Prompt and reward of each row, in an order of their own."""
    answers = [
        Answer(
            row_id=f"{row.prompt_id}/{row.sample_index}",
            record=records[row.prompt_id],
            rubric=rubrics.of(row.prompt_id),
            response=row.completion,
        )
        for row in rows
    ]
    graded = grade(
        ((answer, answer.answer_hash) for answer in answers),
        RubricJudge(),
        rubrics=config,
        max_in_flight=_MAX_IN_FLIGHT,
    )
    return [(row.prompt_id, row.reward) async for done in graded for row in done]


def _record(row: SampleRow) -> PromptRecord:
    return PromptRecord(
        prompt_id=row.prompt_id, messages=row.messages, domain="", source="samples", row_hash=""
    )


def _require_rules(rubrics: RubricSet, path: str) -> None:
    without = [(r.prompt_id, c.cid) for r in rubrics.rubrics for c in r.criteria if c.rule is None]
    if without:
        raise ConfigError(
            f"--gold-rubrics {path}: {len(without)} criteria have no rule, the first is "
            f"{without[0][1]!r} of prompt {without[0][0]!r}, and only rules are checked here: "
            "compare by `rubric-rl eval winrate` and give --gold, or train with gold.llm"
        )


def _rubrics_config(run: Path) -> RubricsConfig:
    """How the run made rewards of verdicts."""
    path = run / "config.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return RubricsConfig.model_validate(settings["rubrics"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as err:
        raise DataError(f"{path} is not the configuration of a run: {err}") from err


# ----------------------------------------------------------------------------
# Figures of other evaluations


def _win_rate(path: Path) -> Gold:
    estimate = _read(path, TypeAdapter(WinRateFile), "rubric-rl eval winrate").figures.win_rate
    return Gold(value=_value(path, estimate), standard_error=_standard_error(estimate))


def _benchmark(path: Path, prbench_mean: str) -> float:
    """HealthBench's score, or one of PRBench's means."""
    what = "rubric-rl eval healthbench or prbench"
    found = _read(path, TypeAdapter(HealthBenchScore | PrbenchScore), what)
    if isinstance(found, PrbenchScore):
        return _value(path, found.overall.named(prbench_mean))
    if found.overall is None:
        raise DataError(f"{path}: no answer was scored")
    return found.overall.score


def _read(path: Path, adapter: TypeAdapter[_T], command: str) -> _T:
    try:
        return adapter.validate_json(path.read_bytes())
    except OSError as err:
        raise DataError(f"{str(path)!r} can't be read: {err.strerror}") from err
    except ValidationError as err:
        raise DataError(f"{path} is not what `{command} --out` writes") from err


def _value(path: Path, estimate: Estimate) -> float:
    if estimate.value is None:
        raise DataError(f"{path}: no outcome is known, so there is no value")
    return estimate.value


def _standard_error(estimate: Estimate) -> float | None:
    """From its 95 % interval."""
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / (2 * Z95)
