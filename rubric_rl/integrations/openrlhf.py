"""Rubric rewards for OpenRLHF: give this file to `--reward.remote_url`.

    RUBRIC_RL_RUBRICS=prompts.jsonl RUBRIC_RL_JUDGE="judge=openai judge.llm.model=NAME" \\
    python -m openrlhf.cli.train_ppo_ray --reward.remote_url .../rubric_rl/integrations/openrlhf.py

Settings are those of `reward_settings`. `--data.label_key label` must name the column with the
prompts' ids, as in the file that `rubric-rl rubrics export --layout openrlhf` writes.

An answer without a reward: under `error` OpenRLHF logs the error and then stops, as it has
nothing to train on; `nan` is for `--algo.dynamic_filtering_enable`, which drops a group whose mean
is not within its range, as NaN never is, and draws another prompt.

OpenRLHF can post to `rubric-rl serve` itself (`--reward.remote_url http://host:8900/get_reward`),
but sends no key: with this file and RUBRIC_RL_URL it does.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_rl.integrations.openrlhf_format import reply_of, score_requests
from rubric_rl.integrations.reward_settings import reward_settings


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
) -> dict[str, object]:
    """Rewards of answers, as OpenRLHF's executor calls for them.

    Args:
        queries: [B] prompt and answer as decoded tokens.
        prompts: [B] prompts as text, chat template included.
        labels: [B] ids of the prompts.

    Returns:
        `rewards` and `scores`, [B] each, and `extra_logs` with numbers to log.

    Raises:
        RubricRLError: settings, prompts or the judge; see `reward_settings`.
    """
    settings = reward_settings("OpenRLHF", ("error", "nan"))
    scored = settings.score(score_requests(queries, prompts, labels))
    return reply_of(scored, settings.unscored)
