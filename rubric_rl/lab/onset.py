"""When a curve begins to decline.

The rule, fixed before any run: the peak is the evaluated step with the highest mean. The onset
of decline is the first evaluated step after it from which, up to the last, the mean stays below
the peak's by more than one standard error of the paired difference over units (prompts of
seeds). Where there is no such step, nothing has declined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decline:
    """Positions among the evaluated steps."""

    peak: int
    onset: int | None
    """None: no decline."""


def decline(values_KU: FloatArray) -> Decline:
    """Peak and onset of a curve.

    Args:
        values_KU: [K, U] value of each of U units at each of K evaluated steps.
    """
    means_K = values_KU.mean(axis=1)
    peak = int(np.argmax(means_K))
    gaps_KU = values_KU[peak] - values_KU
    num_units = values_KU.shape[1]
    spread_K = gaps_KU.std(axis=1, ddof=1) if num_units > 1 else np.zeros(len(means_K))
    is_below_K = gaps_KU.mean(axis=1) > spread_K / np.sqrt(num_units)
    onset = len(means_K)
    while onset > peak + 1 and is_below_K[onset - 1]:
        onset -= 1
    return Decline(peak=peak, onset=onset if onset < len(means_K) else None)
