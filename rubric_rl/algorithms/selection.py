"""Sample selection: which groups and samples a step learns from.

    drop_zero_variance  a group whose samples are all equal gives every sample advantage 0: it
                        is dropped and refilled (dynamic sampling; DAPO, arXiv 2503.14476,
                        section 3.2)
    overlong=mask       a completion that was cut is in its group's statistics and not in the
                        loss (DAPO, section 3.4, "overlong filtering")
    overlong=penalty    its reward pays for length L, near the longest Lmax, by a buffer B:
                            min(0, (Lmax - B - L) / B), in [-1, 0]
                        (DAPO, eq. 13, "soft overlong punishment")
    policy_loss=rft     only the best sample of each group is a target (RAFT, arXiv 2304.06767)

Our departures:

1. DAPO drops groups that are all right or all wrong; rubric rewards are graded, so equal
   rewards are what is dropped. With `advantage=gdpo` it is equal verdicts on every criterion:
   equal rewards earned by different criteria are its very signal.
2. Equal means after the length penalty, which may tell samples apart.
3. Rewards that are logged have no penalty in them; only advantages do.
4. A sample that is not trained on stays in the batch, and in its group's statistics, with an
   empty loss mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rubric_rl.algorithms.advantages import outcomes_G
from rubric_rl.config.algorithm import AlgorithmConfig
from rubric_rl.types import Group, JudgedSample

# DAPO's is 4,096 of 20,480 tokens.
_BUFFER_PARTS = 5


def with_length_penalty(group: Group, config: AlgorithmConfig, *, max_new_tokens: int) -> Group:
    """The group with the rewards that advantages are made of; itself without a penalty."""
    if config.overlong != "penalty":
        return group
    buffer = config.overlong_buffer_tokens or max(1, max_new_tokens // _BUFFER_PARTS)
    scored = tuple(_penalized(s, buffer, max_new_tokens) for s in group.scored)
    return replace(group, scored=scored)


def length_penalty(num_tokens: int, *, buffer_tokens: int, max_new_tokens: int) -> float:
    """What a completion of this length pays, in [-1, 0]."""
    return min(0.0, (max_new_tokens - buffer_tokens - num_tokens) / buffer_tokens)


def _penalized(sample: JudgedSample, buffer_tokens: int, max_new_tokens: int) -> JudgedSample:
    assert sample.score.value is not None
    penalty = length_penalty(
        len(sample.sample.completion_token_ids),
        buffer_tokens=buffer_tokens,
        max_new_tokens=max_new_tokens,
    )
    return replace(sample, score=replace(sample.score, value=sample.score.value + penalty))


def is_zero_variance(group: Group, config: AlgorithmConfig, *, max_new_tokens: int) -> bool:
    """Whether the samples of a group are all equal, so that comparing them teaches nothing."""
    if config.advantage == "gdpo":
        return not any(
            _differ([o for o in outcomes_G(criterion, group.scored) if o is not None])
            for criterion in group.rubric.criteria
        )
    return not _differ(with_length_penalty(group, config, max_new_tokens=max_new_tokens).rewards_G)


def _differ(values: Sequence[float]) -> bool:
    return len(set(values)) > 1


def has_target(group: Group, config: AlgorithmConfig) -> bool:
    """Whether the loss may use any scored sample of the group."""
    return any(not _is_masked(sample, config) for sample in group.scored)


def is_target(sample: JudgedSample, advantage: float, config: AlgorithmConfig) -> bool:
    """Whether the loss uses a scored sample."""
    rejected = config.policy_loss == "rft" and advantage == 0
    return not (rejected or _is_masked(sample, config))


def _is_masked(sample: JudgedSample, config: AlgorithmConfig) -> bool:
    return config.overlong == "mask" and sample.sample.finish_reason == "length"
