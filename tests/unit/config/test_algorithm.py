"""The algorithm's configuration: what makes no sense is refused, presets are the papers'."""

from __future__ import annotations

from typing import Any

import pytest

from rubric_rl.config.compose import compose
from rubric_rl.errors import ConfigError

ON_POLICY = ("algorithm.old_log_probs=learner",)
RFT = ("algorithm=rft",)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("algorithm.policy_loss=gspo",),
            "algorithm.policy_loss='gspo' weighs samples alike, but "
            "algorithm.loss_aggregation='token': set algorithm.loss_aggregation=sequence",
        ),
        (
            ("algorithm.policy_loss=cispo", "algorithm.dual_clip=3"),
            "algorithm.dual_clip=3.0 is of no use with algorithm.policy_loss='cispo': set "
            "algorithm.dual_clip=null",
        ),
        (
            ("algorithm.loss_aggregation=constant",),
            "algorithm.loss_aggregation='constant' needs algorithm.constant_length_tokens: set it "
            "to the longest completion (rollout.max_new_tokens=64)",
        ),
        (
            ("algorithm.importance_correction=token_clip",),
            "algorithm.importance_correction='token_clip' has nothing to correct with "
            "algorithm.old_log_probs='rollout', whose ratio is against the engine already: set "
            "algorithm.old_log_probs=learner",
        ),
        (
            (*ON_POLICY, "algorithm=gspo", "algorithm.importance_correction=sequence_mask"),
            "algorithm.importance_correction='sequence_mask' is PPO's but "
            "algorithm.policy_loss='gspo': set algorithm.importance_correction=off",
        ),
        (
            ("algorithm.importance_min=2", "algorithm.importance_max=1"),
            "algorithm.importance_min=2.0 is more than algorithm.importance_max=1.0",
        ),
        (
            ("algorithm.kl_in=reward",),
            "algorithm.kl_estimator='k3' in the reward has no pull near the reference: set "
            "algorithm.kl_estimator=k1, or algorithm.kl_in=loss",
        ),
        (
            (*RFT, "algorithm.kl_in=reward", "algorithm.kl_estimator=k1"),
            "algorithm.kl_in='reward' needs advantages, which algorithm.policy_loss='rft' does "
            "without: set algorithm.kl_in=loss",
        ),
        (
            ("algorithm.policy_loss=rft",),
            "algorithm.policy_loss='rft' trains on the best of each group: set "
            "algorithm.advantage=best_of_group (it is 'grpo')",
        ),
        (
            ("algorithm.advantage=best_of_group",),
            "algorithm.advantage='best_of_group' picks targets without a baseline: set "
            "algorithm.policy_loss=rft (it is 'ppo')",
        ),
        (
            (*RFT, "algorithm.overlong=mask"),
            "algorithm.overlong='mask' could mask a group's only target "
            "(algorithm.policy_loss='rft'): set algorithm.overlong=penalty, which ranks it lower",
        ),
        (
            ("algorithm=reinforce_pp", "algorithm.drop_zero_variance=true"),
            "algorithm.drop_zero_variance=true drops groups that "
            "algorithm.advantage='reinforce_pp' learns from, because it compares them with other "
            "groups: set algorithm.drop_zero_variance=false, or "
            "algorithm.advantage=reinforce_pp_baseline",
        ),
        (
            ("algorithm=gdpo", "rubrics=gated"),
            "algorithm.advantage='gdpo' compares criterion by criterion and sees no gate, but "
            "rubrics.reward='gated': set rubrics.reward=weighted_share",
        ),
        (
            ("algorithm=gdpo", "algorithm.overlong=penalty", "algorithm.overlong_buffer_tokens=8"),
            "algorithm.overlong='penalty' changes rewards, which algorithm.advantage='gdpo' does "
            "not read: set algorithm.overlong=mask",
        ),
        (
            ("algorithm=dapo", "algorithm.overlong_buffer_tokens=65"),
            "algorithm.overlong_buffer_tokens=65 is more than rollout.max_new_tokens=64",
        ),
        (
            ("algorithm.dual_clip=1",),
            "algorithm.dual_clip=1 is not allowed: it must be greater than 1",
        ),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_in_words(
    overrides: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert str(caught.value) == expected


def test_stale_samples_are_allowed_where_a_correction_weighs_them() -> None:
    config = compose(
        [*ON_POLICY, "algorithm.max_staleness=2", "algorithm.importance_correction=token_clip"]
    )
    assert config.algorithm.max_staleness == 2


PRESETS: list[tuple[str, dict[str, Any]]] = [
    ("grpo", {}),
    (
        "dr_grpo",
        {"advantage": "dr_grpo", "loss_aggregation": "constant", "constant_length_tokens": 64},
    ),
    ("rloo", {"advantage": "rloo", "kl_in": "reward", "kl_estimator": "k1"}),
    ("reinforce_pp", {"advantage": "reinforce_pp", "kl_in": "reward", "kl_estimator": "k1"}),
    ("reinforce_pp_baseline", {"advantage": "reinforce_pp_baseline", "kl_estimator": "k2"}),
    ("gdpo", {"advantage": "gdpo"}),
    (
        "gspo",
        {
            "policy_loss": "gspo",
            "loss_aggregation": "sequence",
            "clip_low": 3e-4,
            "clip_high": 4e-4,
            "kl_coef": 0.0,
        },
    ),
    ("cispo", {"policy_loss": "cispo", "clip_low": 1.0, "clip_high": 4.0, "kl_coef": 0.0}),
    (
        "dapo",
        {
            "clip_high": 0.28,
            "kl_coef": 0.0,
            "drop_zero_variance": True,
            "overlong": "penalty",
        },
    ),
    ("rft", {"advantage": "best_of_group", "policy_loss": "rft", "kl_coef": 0.0}),
]


@pytest.mark.parametrize(("name", "settings"), PRESETS)
def test_a_preset_differs_from_the_defaults_in_what_its_paper_says(
    name: str, settings: dict[str, Any]
) -> None:
    defaults = compose([]).algorithm
    assert compose([f"algorithm={name}"]).algorithm == defaults.model_copy(update=settings)


def test_the_fixed_length_of_dr_grpo_is_the_longest_completion() -> None:
    for overrides in ([], ["rollout.max_new_tokens=32"]):
        config = compose(["algorithm=dr_grpo", *overrides])
        assert config.algorithm.constant_length_tokens == config.rollout.max_new_tokens
