"""The rubric of an answer that is graded as a whole, with one grade and no criteria.

A reward model, or a chat model that is asked for a grade from 1 to 10 (`judge.llm.mode=likert`),
judges no criterion. What it gives is the grade of one criterion that stands for the whole
answer, so that everything between the judge and the reward stays as it is: a failure is UNKNOWN
and the sample unscored, and the grade is its weighted share.
"""

from __future__ import annotations

from rubric_rl.rubrics.rubric_set import RubricSet
from rubric_rl.types import Criterion, Rubric

WHOLE = "whole"
"""Id of the one criterion."""

REWARD_MODEL_MODE = "reward_model"
"""Mode of a reward model's judgements, whose grades are on a scale of their own."""

_CRITERIA = (Criterion(cid=WHOLE, text="How good the answer is as a whole", weight=1.0),)


def whole_answer_rubric(prompt_id: str) -> Rubric:
    """One criterion without a rule, the same for every prompt."""
    return Rubric(prompt_id=prompt_id, version=0, criteria=_CRITERIA)


def whole_answer_rubrics(rubrics: RubricSet) -> RubricSet:
    """Such a rubric for each prompt of `rubrics`."""
    ids = [rubric.prompt_id for rubric in rubrics.rubrics]
    return RubricSet(version=0, rubrics=tuple(whole_answer_rubric(one) for one in ids))
