"""TensorBoard events, read back as TensorBoard reads them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rubric_rl.observability.tensorboard_sink import TensorboardSink


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def test_each_metric_is_a_curve_over_the_steps(tmp_path: Path, make_record) -> None:
    sink = TensorboardSink(tmp_path, resumed_at=None)
    sink.log(make_record(0, eval__reward_mean=0.25))
    sink.log(make_record(1, reward__mean=0.5, policy__kl_ref=0.125))
    assert curves(tmp_path)["reward/mean"] == [(1, 0.5)]  # before the end
    sink.log(make_record(2, reward__mean=0.75, eval__reward_mean=0.5))
    sink.close()
    assert curves(tmp_path) == {
        "eval/reward_mean": [(0, 0.25), (2, 0.5)],
        "reward/mean": [(1, 0.5), (2, 0.75)],
        "policy/kl_ref": [(1, 0.125)],
    }


@pytest.mark.parametrize(
    ("resumed_at", "expected"),
    [
        (2, [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]),
        (-1, [(3, 30.0), (4, 40.0)]),
    ],
)
def test_steps_that_a_resumed_run_repeats_are_once_in_the_curve(
    tmp_path: Path, make_record, resumed_at: int, expected: list[tuple[int, float]]
) -> None:
    killed = TensorboardSink(tmp_path, resumed_at=None)
    for step in (1, 2, 3, 4, 5):
        killed.log(make_record(step, reward__mean=float(step)))
    resumed = TensorboardSink(tmp_path, resumed_at=resumed_at)
    for step in (3, 4):
        resumed.log(make_record(step, reward__mean=10.0 * step))
    resumed.close()
    killed.close()
    # Nothing of step 5, which the resumed run has not come to.
    assert curves(tmp_path) == {"reward/mean": expected}


def test_a_folder_that_cannot_be_written_is_one_warning_and_the_end_of_the_sink(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make_record
) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        sink = TensorboardSink(tmp_path, resumed_at=None)
        sink.log(make_record(1, reward__mean=0.5))
        sink.close()
    assert sink.num_failures == 1
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "TensorBoard failed and is switched off"
    ]


def test_an_unlisted_metric_is_our_bug_and_not_hidden(tmp_path: Path, make_record) -> None:
    sink = TensorboardSink(tmp_path, resumed_at=None)
    with pytest.raises(ValueError, match="reward/median"):
        sink.log(make_record(1, reward__median=0.5))
    sink.close()
