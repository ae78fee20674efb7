"""Advantages: how much better each sample is than what it is compared with.

Every token of sample i gets A_i. With r the rewards of a group of G samples, `mean` and
`std` over that group, and `batch` over all groups of the step:

    grpo                   A_i = (r_i - mean(r)) / std(r)
                           DeepSeekMath, arXiv 2402.03300, section 4.1, outcome supervision
    dr_grpo                A_i = r_i - mean(r)
                           "Understanding R1-Zero-Like Training", arXiv 2503.20783, section 3.2;
                           its other half is `loss_aggregation=constant`
    rloo                   A_i = r_i - mean of the others' r
                           "Back to Basics", arXiv 2402.14740
    reinforce_pp           A_i = (r_i - batch mean(r)) / batch std(r)
                           REINFORCE++, arXiv 2501.03262; its KL is `kl_in=reward`
    reinforce_pp_baseline  a_i = r_i - mean(r);  A_i = a_i / batch std(a)
                           the same paper's variant for several samples of one prompt
    gdpo                   a_i = weighted mean over criteria c of (v_ic - mean(v_c)) / std(v_c)
                           A_i = (a_i - batch mean(a)) / batch std(a)
                           GDPO, arXiv 2601.05242, with a rubric's criteria as the rewards:
                           equal rewards earned by different criteria stay apart
    best_of_group          A_i = 1 for the best sample of the group, 0 for the others
                           RAFT, arXiv 2304.06767: targets of rejection fine-tuning

Our departures:

1. Only scored samples are compared: one that could not be judged enters no mean and
   no std, so a judge failure never looks like a low reward.
2. A std is the sample std (divides by n - 1), as in OpenRLHF and TRL; the papers
   do not say which.
3. `_STD_FLOOR` is added to a std, and equal values give exact zeros, so that
   rounding noise is never blown up into a signal.
4. REINFORCE++ takes its batch statistics over samples, not over tokens: a long answer
   counts no more than a short one.
5. GDPO's sum over criteria is a mean weighted by the rubric's weights over those that were
   judged: an UNKNOWN verdict is in no statistic and costs its sample nothing, and a prompt
   with many criteria weighs no more than one with few.
6. Of several best samples `best_of_group` takes the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from rubric_rl.config.algorithm import AdvantageName
from rubric_rl.types import Criterion, Group, JudgedSample, VerdictValue

# Small beside any difference that one criterion can make to a reward in [0, 1].
_STD_FLOOR = 1e-4


def grpo_advantages(rewards_G: Sequence[float]) -> list[float]:
    """Advantages of one group, in the order of its rewards.

    `rewards_G` holds the rewards of the scored samples of one prompt. Sums are
    exactly rounded, so reordering the group reorders the result and changes no bit.
    Groups of zero or one sample have nothing to compare and get zeros.
    """
    return _standardized(rewards_G)


def dr_grpo_advantages(rewards_G: Sequence[float]) -> list[float]:
    """Rewards of one group less their mean."""
    if _nothing_to_compare(rewards_G):
        return [0.0] * len(rewards_G)
    mean = math.fsum(rewards_G) / len(rewards_G)
    return [r - mean for r in rewards_G]


def rloo_advantages(rewards_G: Sequence[float]) -> list[float]:
    """Rewards of one group, each less the mean of the others."""
    if _nothing_to_compare(rewards_G):
        return [0.0] * len(rewards_G)
    total, num_others = math.fsum(rewards_G), len(rewards_G) - 1
    return [r - (total - r) / num_others for r in rewards_G]


def reinforce_pp_advantages(rewards_P_G: Sequence[Sequence[float]]) -> list[list[float]]:
    """Rewards of a step, standardized over all of its samples."""
    return _standardized_batch(rewards_P_G)


def reinforce_pp_baseline_advantages(
    rewards_P_G: Sequence[Sequence[float]],
) -> list[list[float]]:
    """Rewards less the mean of their group, over the step's std of these."""
    centred_P_G = [dr_grpo_advantages(rewards_G) for rewards_G in rewards_P_G]
    centred = [a for centred_G in centred_P_G for a in centred_G]
    if _nothing_to_compare(centred):
        return [[0.0] * len(centred_G) for centred_G in centred_P_G]
    # Their mean is zero already; taking off what rounding left would spoil exact zeros.
    scale = _std(centred) + _STD_FLOOR
    return [[a / scale for a in centred_G] for centred_G in centred_P_G]


def gdpo_advantages(groups: Sequence[Group]) -> list[list[float]]:
    """Each criterion standardized within its group, their weighted mean within the step."""
    return _standardized_batch([_weighted_criteria(group) for group in groups])


def best_of_group(rewards_G: Sequence[float]) -> list[float]:
    """1 for the first of the best, 0 for the others."""
    best = rewards_G.index(max(rewards_G)) if rewards_G else None
    return [float(i == best) for i in range(len(rewards_G))]


def _each_group(
    of_group: Callable[[Sequence[float]], list[float]],
) -> Callable[[Sequence[Group]], list[list[float]]]:
    return lambda groups: [of_group(group.rewards_G) for group in groups]


def _all_groups(
    of_step: Callable[[Sequence[Sequence[float]]], list[list[float]]],
) -> Callable[[Sequence[Group]], list[list[float]]]:
    return lambda groups: of_step([group.rewards_G for group in groups])


ADVANTAGES: Mapping[AdvantageName, Callable[[Sequence[Group]], list[list[float]]]] = {
    "grpo": _each_group(grpo_advantages),
    "dr_grpo": _each_group(dr_grpo_advantages),
    "rloo": _each_group(rloo_advantages),
    "reinforce_pp": _all_groups(reinforce_pp_advantages),
    "reinforce_pp_baseline": _all_groups(reinforce_pp_baseline_advantages),
    "gdpo": gdpo_advantages,
    "best_of_group": _each_group(best_of_group),
}
"""Of a step's groups, the advantages_P_G in the order of each group's `scored`."""


# ----------------------------------------------------------------------------
# Criteria


def outcomes_G(criterion: Criterion, samples: Sequence[JudgedSample]) -> list[float | None]:
    """Of each sample, 1 if the criterion came out well, 0 if not, its grade if it is GRADED, None
    if it is UNKNOWN."""
    verdicts = [
        next(v for v in sample.judgement.verdicts if v.cid == criterion.cid) for sample in samples
    ]
    good = VerdictValue.MET if criterion.polarity == 1 else VerdictValue.UNMET
    return [
        None
        if v.value is VerdictValue.UNKNOWN
        else (float(v.value is good) if v.grade is None else v.grade)
        for v in verdicts
    ]


def _weighted_criteria(group: Group) -> list[float]:
    """Of each scored sample, the mean of its criteria's advantages by their weights."""
    totals = [0.0] * len(group.scored)
    weights = [0.0] * len(group.scored)
    for criterion in group.rubric.criteria:
        outcomes = outcomes_G(criterion, group.scored)
        judged = [i for i, outcome in enumerate(outcomes) if outcome is not None]
        advantages = _standardized([o for o in outcomes if o is not None])
        for i, advantage in zip(judged, advantages, strict=True):
            totals[i] += criterion.weight * advantage
            weights[i] += criterion.weight
    # A scored sample has a judged criterion, so its weight is not zero.
    return [total / weight for total, weight in zip(totals, weights, strict=True)]


# ----------------------------------------------------------------------------
# Statistics


def _standardized(values: Sequence[float]) -> list[float]:
    if _nothing_to_compare(values):
        return [0.0] * len(values)
    mean = math.fsum(values) / len(values)
    scale = _std(values) + _STD_FLOOR
    return [(v - mean) / scale for v in values]


def _standardized_batch(values_P_G: Sequence[Sequence[float]]) -> list[list[float]]:
    """All values together, in the shape that they came in."""
    standardized = iter(_standardized([v for values_G in values_P_G for v in values_G]))
    return [[next(standardized) for _ in values_G] for values_G in values_P_G]


def _std(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _nothing_to_compare(values: Sequence[float]) -> bool:
    return len(values) < 2 or min(values) == max(values)
