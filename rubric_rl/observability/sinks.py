"""Where step records go: JSONL files in the run folder, W&B, several at once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from rubric_rl.observability.atomic import write_text_atomic
from rubric_rl.observability.metrics import check_names
from rubric_rl.observability.records import Phase, SampleRow, StepRecord, encode_row


class Sink(Protocol):
    """Takes one record for each step, in the order of the steps."""

    def log(self, record: StepRecord) -> None: ...

    def close(self) -> None:
        """Flush and release; called once, after which nothing is logged."""
        ...


class MultiSink:
    """Hands every record to each sink, in order."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def log(self, record: StepRecord) -> None:
        for sink in self._sinks:
            sink.log(record)

    def close(self) -> None:
        """Close all of them, even when closing one of them raises."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(sink.close)


_SAMPLE_FILE_PREFIX: Mapping[Phase, str] = {"train": "step", "eval": "eval"}


class JsonlSink:
    """Writes `metrics.jsonl` and `samples/` of a run folder.

    A step is one object in `metrics.jsonl`: "step", "time" (seconds since 1970),
    then its metrics. Its training rows are in `samples/step_000003.jsonl`, its
    held-out rows in `samples/eval_000003.jsonl`. The rows are written before the
    metrics, so a step that is listed has its samples.
    """

    def __init__(self, run_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._samples_dir = run_dir / "samples"
        self._samples_dir.mkdir(parents=True, exist_ok=True)
        self._metrics_file = (run_dir / "metrics.jsonl").open("a", encoding="utf-8", newline="\n")
        self._clock = clock
        self._last_step: int | None = None

    def log(self, record: StepRecord) -> None:
        """Raises ValueError on an unlisted name, a value that isn't finite, a repeated step."""
        self._check(record)
        for phase in _SAMPLE_FILE_PREFIX:
            self._write_rows(record, phase)
        line = {"step": record.step, "time": round(self._clock(), 3), **record.metrics}
        self._metrics_file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._metrics_file.flush()
        self._last_step = record.step

    def close(self) -> None:
        self._metrics_file.close()

    def _check(self, record: StepRecord) -> None:
        check_names(record.metrics)
        bad = {name: value for name, value in record.metrics.items() if not math.isfinite(value)}
        if bad:
            raise ValueError(f"metrics of step {record.step} that are not finite: {bad}")
        if self._last_step is not None and record.step <= self._last_step:
            raise ValueError(f"step {record.step} comes after step {self._last_step}")

    def _write_rows(self, record: StepRecord, phase: Phase) -> None:
        rows = [row for row in record.rows if row.phase == phase]
        if rows:
            name = f"{_SAMPLE_FILE_PREFIX[phase]}_{record.step:06d}.jsonl"
            text = "".join(encode_row(row) + "\n" for row in rows)
            write_text_atomic(self._samples_dir / name, text)


def spread_rows(rows: Sequence[SampleRow], limit: int) -> list[SampleRow]:
    """At most `limit` rows, at even distances in the order of phase, prompt and sample.

    So that a small table shows as many prompts as it has room for.
    """
    ordered = sorted(rows, key=lambda row: (row.phase, row.prompt_id, row.sample_index))
    if len(ordered) <= limit:
        return ordered
    return [ordered[i * len(ordered) // limit] for i in range(limit)]
