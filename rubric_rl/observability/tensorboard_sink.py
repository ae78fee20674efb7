"""The metrics as TensorBoard events, in `tensorboard/` of the run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubric_rl.observability.metrics import check_names
from rubric_rl.observability.records import StepRecord

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

logger = logging.getLogger(__name__)

TENSORBOARD_DIR = "tensorboard"


class TensorboardSink:
    """One event file for each start of a run.

    `resumed_at` is the step that a resumed run goes on from, -1 from before the first: what
    earlier files hold of later steps is hidden, so that each metric stays one curve. None: a
    new run. Files that can't be written switch this sink off, once and visibly.
    """

    def __init__(self, run_dir: Path, *, resumed_at: int | None) -> None:
        self.num_failures = 0
        """At most one."""
        self._writer: EventFileWriter | None = None
        self._guard(lambda: self._open(run_dir / TENSORBOARD_DIR, resumed_at))

    def log(self, record: StepRecord) -> None:
        """Raises ValueError on an unlisted metric name, and nothing else."""
        check_names(record.metrics)
        writer = self._writer
        if writer is not None and record.metrics:
            self._guard(lambda: _write(writer, _scalars(record)))

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._guard(writer.close)

    def _open(self, folder: Path, resumed_at: int | None) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))
        if resumed_at is not None:
            _write(self._writer, _restart(resumed_at + 1))

    def _guard(self, call: Callable[[], object]) -> None:
        """The boundary to the file: training never depends on it."""
        try:
            call()
        except OSError as err:
            self._writer = None
            self.num_failures += 1
            logger.warning("TensorBoard failed and is switched off: %s. The run goes on", err)


def _write(writer: EventFileWriter, event: Any) -> None:
    writer.add_event(event)
    writer.flush()


def _scalars(record: StepRecord) -> Any:
    protos = _protos()
    values = [
        protos.Summary.Value(tag=name, simple_value=value) for name, value in record.metrics.items()
    ]
    return protos.Event(
        wall_time=time.time(), step=record.step, summary=protos.Summary(value=values)
    )


def _restart(step: int) -> Any:
    """What TensorBoard hides events of `step` and later for, if they were written before it."""
    protos = _protos()
    start = protos.SessionLog(status=protos.SessionLog.START)
    return protos.Event(wall_time=time.time(), step=step, session_log=start)


@dataclass(frozen=True, slots=True)
class _Protos:
    Event: Any
    SessionLog: Any
    Summary: Any


def _protos() -> _Protos:
    """TensorBoard's messages, which have no types: they are made when they are imported."""
    from tensorboard.compat.proto import event_pb2, summary_pb2

    events, summaries = vars(event_pb2), vars(summary_pb2)
    return _Protos(events["Event"], events["SessionLog"], summaries["Summary"])
