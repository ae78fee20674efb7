"""Group-relative advantages: a sample's reward against the others of its prompt.

GRPO with outcome supervision (DeepSeekMath, arXiv 2402.03300, section 4.1):

    A_i = (r_i - mean(r_1..r_G)) / std(r_1..r_G)

and every token of sample i gets A_i. Our departures:

1. Only scored samples are in the group: one that could not be judged enters
   neither the mean nor the std, so a judge failure never looks like a low reward.
2. The std is the sample std (divides by G - 1), as in OpenRLHF and TRL; the paper
   does not say which.
3. `_STD_FLOOR` is added to the std, and equal rewards give exact zeros, so that
   rounding noise is never blown up into a signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Small beside any difference that one criterion can make to a reward in [0, 1].
_STD_FLOOR = 1e-4


def grpo_advantages(rewards_G: Sequence[float]) -> list[float]:
    """Advantages of one group, in the order of its rewards.

    `rewards_G` holds the rewards of the scored samples of one prompt. Sums are
    exactly rounded, so reordering the group reorders the result and changes no bit.
    Groups of zero or one sample have nothing to compare and get zeros.
    """
    if len(rewards_G) < 2 or min(rewards_G) == max(rewards_G):
        return [0.0] * len(rewards_G)
    mean = math.fsum(rewards_G) / len(rewards_G)
    variance = math.fsum((r - mean) ** 2 for r in rewards_G) / (len(rewards_G) - 1)
    scale = math.sqrt(variance) + _STD_FLOOR
    return [(r - mean) / scale for r in rewards_G]
