"""The gold rubrics of the held-out prompts, out of a prompt file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rubric_rl.data.formats.catalog import read_prompt_file
from rubric_rl.data.prompt_set import local_path
from rubric_rl.data.reading import list_problems
from rubric_rl.errors import DataError
from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import PromptRecord


def load_gold_rubrics(path_text: str, held_out: Sequence[PromptRecord], *, key: str) -> RubricSet:
    """The rubrics of `held_out` in the file, version 0; its other prompts don't matter.

    Args:
        key: how the file was given, for messages, such as `gold.rubrics`.

    Raises:
        DataError: the file can't be read, lacks one of the prompts, or has other words under its
            id.
    """
    what = f"{key}={path_text!r}"
    with local_path(path_text, key) as path:
        loaded = read_prompt_file(path, "auto", what=what).imported.loaded
    found = {prompt.record.prompt_id: prompt for prompt in loaded}
    problems = [
        f"{record.prompt_id!r} is not in it"
        if record.prompt_id not in found
        else f"{record.prompt_id!r} has other messages"
        for record in held_out
        if record.prompt_id not in found
        or found[record.prompt_id].record.messages != record.messages
    ]
    if problems:
        raise DataError(
            f"{what} must have a rubric for each of the {len(held_out)} held-out prompts, with the "
            f"same id and messages:{list_problems(problems)}"
        )
    rubrics = (replace(found[record.prompt_id].rubric, version=0) for record in held_out)
    return RubricSet(version=0, rubrics=tuple(rubrics))
