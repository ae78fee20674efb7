"""What gold came to in a run, in words, for its closing report."""

from __future__ import annotations

from rubric_rl.config.schema import Config
from rubric_rl.controller.schedule import ends_by_gold
from rubric_rl.controller.state import TrainState


def describe_gold(config: Config, state: TrainState) -> str | None:
    """Peak, last value and decline of gold; None if it has no value.

    The rule of the decline is in `evaluation.overoptimisation`.
    """
    watch = state.gold
    if watch is None:
        return None
    values = (
        f"The gold value was best at step {watch.peak_step} with {watch.peak.value:.3f}, and is "
        f"{watch.last_value:.3f} at step {watch.last_step}."
    )
    if watch.onset_step is None:
        return f"{values} No decline shows beyond noise."
    if watch.num_clear < config.gold.stop_evaluations:
        return f"{values} It is lower since step {watch.onset_step}, which is not confirmed yet."
    declines = f"{values} It declines since step {watch.onset_step}."
    if not ends_by_gold(config, state):
        return declines
    return (
        f"{declines} The run was ended there by gold.stop_after_decline; to go on all the same set "
        "gold.stop_after_decline=false and run.resume=auto."
    )
