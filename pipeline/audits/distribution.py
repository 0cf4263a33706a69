"""The distribution of one column in one group, small whatever the number of rows behind it."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

BINS_PER_OCTAVE = 4096
"""Bins are 0.017 % of their value wide: the error of what is read off them."""
SMALLEST_MAGNITUDE = 2.0**-48
"""Values nearer to 0 than this count as 0."""
BOOTSTRAP_BINS_PER_OCTAVE = 32

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Distribution:
    """Finite values, counted in bins whose width is relative to the value.

    Attributes:
        bins: (B,) int64, ascending: the bin's number, 0 for zero, negative for negative values.
        counts: (B,) int64 > 0.
        sums: (B,) float64, of the values in each bin.
    """

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: Floats

    @cached_property
    def num_rows(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @cached_property
    def values(self) -> Floats:
        """(B,) ascending: the mean of each bin."""
        return np.asarray(self.sums / self.counts, np.float64)

    @cached_property
    def mean(self) -> float:
        """Mean of all values."""
        return float(self.sums.sum() / self.num_rows)

    def quantile(self, q: float) -> float:
        """Return the value below which a share q of the rows lies, to within a bin.

        Args:
            q: 0 to 1.
        """
        rank = min(max(math.ceil(q * self.num_rows), 1), self.num_rows)
        return float(self.values[np.searchsorted(np.cumsum(self.counts), rank)])

    def quantile_interval(self, q: float, confidence: float) -> Interval:
        """Return the bootstrap's interval of a quantile, as with infinitely many draws.

        A draw's r-th smallest value lies at or below a value if at least r of its rows do, whose
        number is a binomial variable, so no draws are needed.

        Args:
            q: 0 to 1.
            confidence: 0 to 1.
        """
        n, tail = self.num_rows, (1 - confidence) / 2
        rank = min(max(math.ceil(q * n), 1), n)
        below = np.cumsum(self.counts)

        def share_of_draws(number: int) -> float:
            return float(stats.binom.sf(rank - 1, n, below[number] / n))

        bins = range(len(below))
        low, high = (bisect_left(bins, share, key=share_of_draws) for share in (tail, 1 - tail))
        return float(self.values[low]), float(self.values[min(high, len(below) - 1)])

    def mean_draws(self, num_draws: int, generator: np.random.Generator) -> Floats:
        """Return the means of bootstrap draws, (num_draws,).

        Rows are drawn by coarser bins, 3 % of their value wide, which are too narrow to change
        how much the means vary.

        Args:
            num_draws: how many.
            generator: source of randomness.
        """
        coarse = np.sign(self.bins) * (
            (np.abs(self.bins) - 1) * BOOTSTRAP_BINS_PER_OCTAVE // BINS_PER_OCTAVE + 1
        )
        _, start = np.unique(coarse, return_index=True)
        counts = np.add.reduceat(self.counts, start)
        values = np.add.reduceat(self.sums, start) / counts
        drawn = generator.multinomial(self.num_rows, counts / self.num_rows, size=num_draws)
        return np.asarray(drawn @ values / self.num_rows, np.float64)


def share_interval(count: int, num_rows: int, confidence: float) -> Interval:
    """Return the bootstrap's interval of a share, as with infinitely many draws.

    Args:
        count: rows that have the property.
        num_rows: all rows, > 0.
        confidence: 0 to 1.
    """
    tail = (1 - confidence) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], num_rows, count / num_rows) / num_rows
    return float(low), float(high)


def interval_of(draws: Floats, confidence: float) -> Interval:
    """Return the interval that holds the middle share of bootstrap draws.

    Args:
        draws: (N,).
        confidence: 0 to 1.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class RankTest:
    """Mann and Whitney's test of whether one sample's values tend to be larger.

    Attributes:
        p_value: two-sided, by the normal approximation with ties corrected; None where all values
            are the same.
        effect: Cliff's delta, -1 to 1: how much more often a value of the first sample is larger
            than one of the second than smaller.
    """

    p_value: float | None
    effect: float


def rank_test(first: Distribution, second: Distribution) -> RankTest:
    """Compare two samples by ranks; values in one bin count as tied.

    Args:
        first: with at least one row.
        second: with at least one row.
    """
    bins = np.union1d(first.bins, second.bins)
    counts = np.zeros((2, len(bins)))
    for row, sample in zip(counts, (first, second), strict=True):
        row[np.searchsorted(bins, sample.bins)] = sample.counts
    below = np.cumsum(counts[1]) - counts[1]
    larger = float((counts[0] * (below + counts[1] / 2)).sum())  # Mann and Whitney's U
    n, m = first.num_rows, second.num_rows
    effect = 2 * larger / (n * m) - 1
    ties = counts.sum(axis=0)
    total = n + m
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * max(total - 1, 1)))
    if variance <= 0:
        return RankTest(None, effect)
    z = (larger - n * m / 2) / math.sqrt(variance)
    return RankTest(float(2 * stats.norm.sf(abs(z))), effect)
