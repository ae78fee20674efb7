"""Rubric rewards for TRL: a reward function for `GRPOTrainer` and trainers like it.

    trainer = GRPOTrainer(..., reward_funcs=rubric_reward(url="http://host:8900"))

The column `prompt_id`, as `rubric-rl rubrics export --layout trl` writes it, names the prompt;
without it the prompt's conversation must be exactly that of one prompt in the rubrics file.

An answer without a reward is None by default. GRPOTrainer of TRL 1.16 leaves it out of its group's
mean and deviation and gives it an advantage of 0; earlier ones made a reward of 0 of it, so there
`none` is refused. If more than half of a batch has no reward, the judge is down: that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rubric_rl.errors import ConfigError, DataError
from rubric_rl.integrations.reward_settings import reward_settings
from rubric_rl.integrations.scored_answers import ScoreRequest, rewards_for, user_turn
from rubric_rl.integrations.wire import conversation
from rubric_rl.types import Message

_LEAVES_NONE_OUT = (1, 16)
Text = str | Sequence[dict[str, Any]]
"""A prompt or completion as TRL has it: plain, or a list of messages."""


def rubric_reward(**settings: Any) -> Callable[..., list[float | None]]:
    """A reward function; the arguments are those of `reward_settings`.

    Raises:
        ConfigError: it is not told where rewards come from, or None would become 0.
    """
    checked = reward_settings("TRL", ("none", "error", "group_mean"), **settings)
    if checked.unscored == "none":
        _check_version()

    # TRL logs its mean as rewards/rubric_reward/mean.
    def rubric_reward(
        prompts: Sequence[Text],
        completions: Sequence[Text],
        prompt_id: Sequence[str] | None = None,
        **columns: object,
    ) -> list[float | None]:
        """Rewards [B] of completions [B]. Raises RubricRLError."""
        requests = [
            ScoreRequest(
                response=_answer(completion),
                prompt_id=None if prompt_id is None else prompt_id[index],
                messages=_conversation(prompt) if prompt_id is None else None,
            )
            for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        return rewards_for(checked.score(requests), checked.unscored)

    return rubric_reward


def _check_version() -> None:
    try:
        installed = version("trl")
    except PackageNotFoundError:
        return  # Somebody else's trainer with the same convention.
    if tuple(int(part) for part in installed.split(".")[:2]) < _LEAVES_NONE_OUT:
        raise ConfigError(
            f"TRL {installed} may take the None of an answer without a reward for 0: set "
            "unscored='error' or 'group_mean', or install TRL 1.16"
        )


def _conversation(prompt: Text) -> tuple[Message, ...] | None:
    if isinstance(prompt, str):
        return user_turn(prompt)
    return conversation(list(prompt), "a prompt")


def _answer(completion: Text) -> str:
    """The text of a completion; the last turn of the assistant where there are several."""
    if isinstance(completion, str):
        return completion
    spoken = [message["content"] for message in completion if message["role"] == "assistant"]
    if not spoken or not isinstance(spoken[-1], str):
        raise DataError(f"a completion has no text of the assistant: {completion!r:.200}")
    return spoken[-1]
