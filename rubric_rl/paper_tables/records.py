"""Records of figures, read: what each says was measured, where in the file, and by whom.

    eval winrate                  rubric_rl.winrate/1          winrate/DOMAIN
    eval tail                     rubric_rl.tail_accuracy/1    tail/REGION
    eval healthbench, prbench     .../healthbench/1, prbench/1 healthbench, prbench
    rubrics analyze               rubric_rl.rubric_analysis/1  kind/..., capability, source
    a run's metrics.jsonl                                      reward/DOMAIN

A file is known by the format that it names, or by its name. What can't be used is refused
with its reason: damaged, of another version, or with too little of it judged.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rubric_rl.errors import DataError
from rubric_rl.evaluation.benchmark import Coverage, Grader
from rubric_rl.evaluation.healthbench import HealthBenchScore
from rubric_rl.evaluation.labels import NO_LABELS, Labels
from rubric_rl.evaluation.outcomes import Orders
from rubric_rl.evaluation.prbench import PrbenchScore
from rubric_rl.evaluation.run_curve import REWARD, proxy_metric
from rubric_rl.evaluation.tail_accuracy import TailAccuracy
from rubric_rl.evaluation.winrate import WinRate
from rubric_rl.judging.agreement import Estimate
from rubric_rl.paper_tables.analyses import read_analysis
from rubric_rl.paper_tables.measurement import Content, Limits, Measurement, Record, parsed

METRICS_FILE = "metrics.jsonl"

_FORMAT = re.compile(rb'"format":\s*"rubric_rl\.([a-z_]+)/(\d+)"')
_HEAD_BYTES = 512


def kind_of(path: Path) -> str | None:
    """What a file says that it is, such as `winrate`; None: no record. Raises DataError."""
    if path.name == METRICS_FILE:
        return "metrics"
    if path.suffix != ".json":
        return None
    try:
        with path.open("rb") as file:
            found = _FORMAT.search(file.read(_HEAD_BYTES))
    except OSError as err:
        raise DataError(f"can't be read: {err}") from err
    if found is None or found[1].decode() not in _READERS:
        return None
    if found[2] != b"1":
        raise DataError(f"has version {found[2].decode()} of its format, and only 1 is known")
    return found[1].decode()


def read_record(path: Path, kind: str, given: Labels, limits: Limits) -> Record:
    """Read a file of that kind; `given` are labels that the user adds to those in it.

    Raises:
        DataError: it is damaged, unfinished, or contradicts its labels.
        ConfigError: `given` contradict the file.
    """
    try:
        content = path.read_bytes()
    except OSError as err:
        raise DataError(f"can't be read: {err}") from err
    found = _READERS[kind](content, given, limits)
    measurements = tuple(found.measurements)
    for m in measurements:
        if not all(math.isfinite(v) for v in (m.value, m.low, m.high) if v is not None):
            raise DataError(f"{m.field} is not a finite number")
    return Record(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        how=found.how,
        measurements=measurements,
        notes=found.notes,
        left_out=found.left_out or (() if measurements else ("has no evaluation",)),
    )


def _labels(own: Labels, given: Labels, domain: str | None = None) -> Labels:
    """Those of the record and the user's, with the domain that the benchmark itself has."""
    labels = own.with_more(given, "--label")
    if domain is not None and labels.domain not in (None, domain):
        raise DataError(f"is labelled domain={labels.domain}, but the benchmark is of {domain}")
    return labels if domain is None else replace(labels, domain=domain)


def _measured(metric: str, found: Estimate, labels: Labels, where: str) -> Measurement:
    if found.value is None:
        raise DataError(f"has no value in {where}: nothing was judged")
    return Measurement(
        metric=metric,
        value=found.value,
        low=found.low,
        high=found.high,
        num=found.num,
        field=f"{where}.value",
        labels=labels,
    )


# ----------------------------------------------------------------------------
# Win rate and tail accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opponent:
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _WinRate:
    by: str
    judge_id: str
    template_hash: str | None
    orders: Orders | None
    allows_tie: bool
    opponent: _Opponent
    figures: WinRate
    labels: Labels = NO_LABELS


def _win_rate(content: bytes, given: Labels, limits: Limits) -> Content:
    record = parsed(_WinRate, content)
    _check_coverage(record.figures.coverage, "pairs", limits)
    orders = {"flip": "one call in random order", "both": "both orders", None: "no call"}
    template = f", template {record.template_hash[:8]}" if record.template_hash else ""
    how = (
        f"{record.judge_id} (by {record.by}, {orders[record.orders]}, "
        f"{'ties allowed' if record.allows_tie else 'no tie offered'}{template}), "
        f"against {record.opponent.source}"
    )
    labels = _labels(record.labels, given)
    found = _measured("winrate", record.figures.win_rate, labels, "figures.win_rate")
    return Content(how=how, measurements=(found,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tail:
    truth: str
    margin: float | None
    judge_id: str
    num_gradings: int
    regions: tuple[TailAccuracy, ...]
    labels: Labels = NO_LABELS


def _tail(content: bytes, given: Labels, limits: Limits) -> Content:
    record = parsed(_Tail, content)
    labels = _labels(record.labels, given)
    for region in record.regions:
        if region.coverage is not None:
            _check_coverage(region.coverage, f"pairs of the region {region.region}", limits)
    found = [
        _measured(
            f"tail/{region.region}",
            region.accuracy_ties_wrong,
            labels,
            f"regions[{place}].accuracy_ties_wrong",
        )
        for place, region in enumerate(record.regions)
    ]
    margin = "" if record.margin is None else f", margin {record.margin:g}"
    graded = f"graded by {record.judge_id}, votes: {record.num_gradings}"
    return Content(how=f"truth: {record.truth}{margin}; {graded}", measurements=found)


def _check_coverage(coverage: float, what: str, limits: Limits) -> None:
    if coverage < limits.min_coverage:
        raise DataError(
            f"{coverage:.1%} of the {what} are judged, less than --min-coverage "
            f"{limits.min_coverage:g}: the evaluation goes on with --retry-unknown"
        )


# ----------------------------------------------------------------------------
# Benchmarks


def _healthbench(content: bytes, given: Labels, limits: Limits) -> Content:
    record = parsed(HealthBenchScore, content)
    notes = _benchmark_notes(record.coverage, limits)
    if record.overall is None:
        raise DataError("has no score: no answer was scored")
    # Clipping keeps the order, so the clipped mean's interval is the interval clipped.
    low, high = (None if v is None else min(1.0, max(0.0, v)) for v in _ends(record.mean))
    found = Measurement(
        metric="healthbench",
        value=record.overall.score,
        low=low,
        high=high,
        num=record.overall.num,
        field="overall.score",
        labels=_labels(record.labels, given, "health"),
    )
    return Content(how=_graders(record.grader), measurements=(found,), notes=notes)


def _ends(estimate: Estimate) -> tuple[float | None, float | None]:
    return estimate.low, estimate.high


def _prbench(content: bytes, given: Labels, limits: Limits) -> Content:
    record = parsed(PrbenchScore, content)
    notes = _benchmark_notes(record.coverage, limits)
    if "finance" not in record.by_field:
        raise DataError(f"has no finance questions, only {', '.join(record.by_field) or 'none'}")
    means = record.by_field["finance"]
    found = _measured(
        "prbench",
        means.named(limits.prbench_mean),
        _labels(record.labels, given, "finance"),
        f"by_field.finance.{limits.prbench_mean}",
    )
    how = f"{_graders(record.grader)}, {limits.prbench_mean}"
    return Content(how=how, measurements=(found,), notes=notes)


def _benchmark_notes(coverage: Coverage, limits: Limits) -> tuple[str, ...]:
    """Raises DataError where too little is judged."""
    if not coverage.num_answers:
        raise DataError("has no score: there are no answers")
    _check_coverage(coverage.num_scored / coverage.num_answers, "answers", limits)
    if coverage.num_prompts == coverage.num_prompts_in_file:
        return ()
    return (f"{coverage.num_prompts} of the {coverage.num_prompts_in_file} prompts answered",)


def _graders(grader: Grader) -> str:
    official = "" if grader.official else ", not the official grader"
    templates = " ".join(one[:8] for one in grader.template_hashes)
    return f"graded by {', '.join(grader.judge_ids)}{official}, template {templates}"


# ----------------------------------------------------------------------------
# Runs


def _metrics(content: bytes, given: Labels, limits: Limits) -> Content:
    lines = content.decode("utf-8", "replace").split("\n")
    if lines.pop():
        raise DataError("its last line is cut, the run was killed: go on with the run")
    return Content(how="held-out reward of the run", measurements=_rewards(lines, given))


def _rewards(lines: list[str], given: Labels) -> Iterator[Measurement]:
    last = -1
    for number, line in enumerate(lines, 1):
        try:
            step: Mapping[str, Any] = json.loads(line)
            name = proxy_metric(step)
            if name is None:
                continue
            mean, own = float(step[name]), Labels(step=int(step["step"]))
            # The anchor has no interval among the metrics.
            has_half = name == REWARD and "eval/reward_ci95" in step
            half = float(step["eval/reward_ci95"]) if has_half else None
        except (ValueError, TypeError, KeyError) as err:
            raise DataError(f"line {number} is not a step's metrics") from err
        if own.step is None or own.step <= last:
            raise DataError(f"line {number} is of step {own.step}, after step {last}")
        last = own.step
        yield Measurement(
            metric="reward",
            value=mean,
            low=None if half is None else mean - half,
            high=None if half is None else mean + half,
            field=f"line {number}: {name}",
            labels=own.with_more(given, "--label"),
        )


_READERS: dict[str, Callable[[bytes, Labels, Limits], Content]] = {
    "winrate": _win_rate,
    "tail_accuracy": _tail,
    "healthbench": _healthbench,
    "prbench": _prbench,
    "rubric_analysis": lambda content, given, _: read_analysis(content, given),
    "metrics": _metrics,
}
