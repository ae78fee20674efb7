"""Where a run records itself: files, W&B, TensorBoard, the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rubric_rl.config.schema import Config
from rubric_rl.controller.run_folder import OpenedRun
from rubric_rl.observability.artifacts import Artifacts
from rubric_rl.observability.console import Console
from rubric_rl.observability.sinks import JsonlSink, Sink
from rubric_rl.observability.tensorboard_sink import TensorboardSink
from rubric_rl.observability.wandb_sink import WandbSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """What is told of each step, and of what the run makes."""

    sinks: list[Sink]
    artifacts: Artifacts


def open_tracking(
    config: Config, opened: OpenedRun, console: Console, at_end: Callable[..., object]
) -> Tracking:
    """Open all that is configured; `at_end` takes what closes each."""
    root = opened.folder.root
    resumed_at = _resumed_at(opened)
    wandb_sink = WandbSink(config, root, opened.run_id, resumed_at)
    console.note(wandb_sink.notice)
    sinks: list[Sink] = [JsonlSink(root), wandb_sink, console]
    if config.logging.tensorboard:
        sinks.append(TensorboardSink(root, resumed_at=resumed_at))
    for sink in sinks:
        at_end(sink.close)
    return Tracking(sinks=sinks, artifacts=wandb_sink.artifacts)


def _resumed_at(opened: OpenedRun) -> int | None:
    if not opened.is_continued:
        return None
    return -1 if opened.checkpoint is None else opened.checkpoint.step
