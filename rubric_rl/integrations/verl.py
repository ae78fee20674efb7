"""Rubric rewards for verl: `compute_score` as its custom reward function.

    reward.custom_reward_function.path=pkg://rubric_rl.integrations.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.url=http://host:8900

(`custom_reward_function.path` and this file's path in versions before `reward.`.) Settings are
those of `reward_settings`, as `reward_kwargs` or in the environment. The data is what
`rubric-rl rubrics export --layout verl` writes: `extra_info.prompt_id` names the prompt.

verl knows no missing reward. Under `error` the exception ends the step; `nan` is for a filter of
groups, which keeps those with a deviation above 0, as NaN is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rubric_rl.errors import DataError
from rubric_rl.integrations.reward_settings import RewardSettings, reward_settings
from rubric_rl.integrations.scored_answers import ScoreRequest, rewards_for

ExtraInfo = Mapping[str, object] | None


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: ExtraInfo = None,
    *,
    reward_router_address: str | None = None,
    reward_model_tokenizer: object = None,
    **settings: Any,
) -> dict[str, float | None]:
    """The reward of one answer as `score`, and `rubric_coverage`, which verl logs.

    Args:
        data_source, ground_truth: Not used: the prompt's id decides, and the judge has its rubric.
        solution_str: The answer.
        extra_info: With `prompt_id`.
        reward_router_address, reward_model_tokenizer: Of verl's own reward model, not used.
        settings: See `reward_settings`.

    Raises:
        RubricRLError: settings, prompts or the judge.
        TypeError: a setting that doesn't exist.
    """
    checked = reward_settings("verl", ("error", "nan"), **settings)
    return _scores(checked, [solution_str], [extra_info])[0]


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[object],
    extra_infos: Sequence[ExtraInfo],
    **settings: Any,
) -> list[dict[str, float | None]]:
    """`compute_score` of a batch, judged side by side, for verl's reward manager `batch`."""
    checked = reward_settings("verl", ("error", "nan", "group_mean"), **settings)
    return _scores(checked, solution_strs, extra_infos)


def _scores(
    settings: RewardSettings, answers: Sequence[str], extra_infos: Sequence[ExtraInfo]
) -> list[dict[str, float | None]]:
    scored = settings.score(
        [
            ScoreRequest(response=answer, prompt_id=_prompt_id(extra_info))
            for answer, extra_info in zip(answers, extra_infos, strict=True)
        ]
    )
    return [
        {"score": reward, "rubric_coverage": answer.coverage}
        for reward, answer in zip(rewards_for(scored, settings.unscored), scored, strict=True)
    ]


def _prompt_id(extra_info: ExtraInfo) -> str:
    prompt_id = None if extra_info is None else extra_info.get("prompt_id")
    if not isinstance(prompt_id, str):
        raise DataError(
            f"extra_info.prompt_id is {prompt_id!r}, want the id of the prompt: export the data "
            "with `rubric-rl rubrics export --layout verl`"
        )
    return prompt_id
