"""Differences between methods that were trained with the same seeds, with t-intervals.

Two runs of one seed share initial weights, order of images and augmentation, so their difference varies less than
either of them. A difference is claimed only where its interval does not contain zero.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

LEVEL = 0.95
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two methods over the seeds that both have."""

    mean: float  # of the differences
    low: float | None  # the interval; None for a single seed
    high: float | None  # the interval; None for a single seed
    n: int  # number of seeds that both methods have

    @property
    def significant(self) -> bool:
        """Whether the interval is known and does not contain zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_difference(own: Mapping[Key, float], base: Mapping[Key, float]) -> PairedDifference | None:
    """Computes the mean of own - base over common seeds, with Student's t-interval of 95 %.

    Args:
        own: value by seed, or by machine and seed.
        base: value by the same keys.

    Returns:
        None where no seed is common.

    Example:
        >>> paired_difference({0: 3.0, 1: 5.0}, {0: 1.0, 1: 2.0}).mean
        2.5
    """
    differences = [value - base[seed] for seed, value in own.items() if seed in base]
    if not differences:
        return None
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return PairedDifference(mean, None, None, 1)
    from scipy import stats  # scikit-learn requires it

    quantile = float(stats.t.ppf(0.5 + LEVEL / 2.0, len(differences) - 1))
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    return PairedDifference(mean, mean - half, mean + half, len(differences))
