"""When the loop tells of the rubrics in force and of checkpoints."""

from __future__ import annotations

from pathlib import Path

from rubric_rl.observability.artifacts import CheckpointMade, RubricsInForce

from .fakes import make_world
from .test_refinement_phase import start


def told(made: list[RubricsInForce | CheckpointMade]) -> list[tuple[str, int, int]]:
    """What it was, after which step, under which version of the rubrics."""
    return [
        ("rubrics", m.step, m.rubrics.version)
        if isinstance(m, RubricsInForce)
        else ("checkpoint", m.step, m.rubric_version)
        for m in made
    ]


def test_rubrics_are_told_at_the_start_and_after_a_refinement_and_checkpoints_as_they_are_made(
    tmp_path: Path,
) -> None:
    world = start(tmp_path)  # refines once, after step 2 of 4
    state = world.run()
    # Version 1 is what the run begins with; the checkpoint before the refinement is under it.
    assert told(world.artifacts.made) == [
        ("rubrics", 0, 1),
        ("checkpoint", 2, 1),
        ("rubrics", 2, 2),
        ("checkpoint", 4, 2),
        ("checkpoint", 4, 2),  # the last one stands already when the run ends
    ]
    last = world.artifacts.made[-1]
    assert isinstance(last, CheckpointMade)
    assert (last.rubric_hash, last.path.name) == (state.rubric_hash, "step_000004")
    assert (last.metric, last.value) == ("eval/anchor_reward_mean", state.last_eval_value)


def test_a_checkpoint_is_told_of_before_it_can_be_deleted(tmp_path: Path) -> None:
    world = make_world(
        tmp_path, num_train=12, num_eval=0, run__keep_checkpoints=1, run__keep_best=0
    )
    there: list[list[int]] = []
    tell = world.artifacts.checkpoint

    def look(made: CheckpointMade) -> None:
        there.append(world.checkpoint_steps())
        tell(made)

    world.artifacts.checkpoint = look  # type: ignore[method-assign]
    world.run()
    assert there == [[2], [2, 4], [4, 6], [6]]
    assert world.checkpoint_steps() == [6]


def test_a_resumed_run_tells_the_rubrics_it_goes_on_under(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.run()
    again = start(tmp_path)
    again.run()
    (begun, *_) = again.artifacts.made
    assert told([begun]) == [("rubrics", 4, 2)]
    assert isinstance(begun, RubricsInForce)
    assert begun.rubrics.content_hash == first.store().rubric_set(2).content_hash
