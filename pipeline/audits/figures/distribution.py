"""Figures with intervals, and the distribution that they are of: one column in one group.

The size of a distribution does not grow with the number of rows.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer
from scipy import stats

from pipeline.runs.records import Record

BINS_PER_OCTAVE = 4096
"""A bin is 0.017 % of its value wide, which bounds the error of numbers read from bins."""
SMALLEST_MAGNITUDE = 2.0**-48
"""Values closer to 0 than this count as 0."""
BOOTSTRAP_BINS_PER_OCTAVE = 32

MIN_ROWS = 10
"""An interval needs this many rows. The bootstrap of fewer rows is far too sure of itself: one row
would make an interval without any width."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def _show_infinity(value: float) -> float | str:
    """Return the text "Infinity" or "-Infinity" for what JSON has no number for."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


Real = Annotated[float, PlainSerializer(_show_infinity, when_used="json")]


class Estimate(Record):
    """A figure and the two ends of its confidence interval.

    Fewer than MIN_ROWS rows make no interval: `low` and `high` are None.
    """

    value: Real
    low: Real | None
    high: Real | None

    @classmethod
    def of(
        cls, value: float, interval: tuple[float, float], num_rows: int, **others: float
    ) -> Self:
        """Return a figure of `num_rows` rows, or pairs of rows, with its interval."""
        low, high = interval if num_rows >= MIN_ROWS else (None, None)
        return cls(value=value, low=low, high=high, **others)


@dataclass(frozen=True)
class Distribution:
    """Values, counted in bins whose width is proportional to the value.

    Attributes:
        bins: (B,) int64, bin numbers, ascending; 0 for zero, negative for negative values.
        counts: (B,) int64 > 0, number of values in each bin.
        sums: (B,) float64, sum of the values in each bin; infinite values have their own bins.
    """

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: Floats

    @cached_property
    def num_rows(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @cached_property
    def num_finite(self) -> int:
        """Number of finite values."""
        return int(self.counts[np.isfinite(self.sums)].sum())

    @cached_property
    def values(self) -> Floats:
        """(B,) mean value of each bin, ascending."""
        return np.asarray(self.sums / self.counts, np.float64)

    def quantile(self, q: float) -> float:
        """Return the quantile q, 0 to 1, to within the width of a bin."""
        rank = min(max(math.ceil(q * self.num_rows), 1), self.num_rows)
        return float(self.values[np.searchsorted(np.cumsum(self.counts), rank)])

    def quantile_interval(self, q: float, confidence: float, effective_rows: float) -> Interval:
        """Return the bootstrap interval of a quantile for infinitely many draws.

        Draws have `effective_rows` rows, which are fewer where rows depend on each other.

        The r-th smallest value of a draw is at or below a value if at least r of its rows are. The
        number of these rows is a binomial variable, so the interval needs no draws.
        """
        n, tail = max(round(effective_rows), 1), (1 - confidence) / 2
        rank = min(max(math.ceil(q * n), 1), n)
        below = np.cumsum(self.counts) / self.num_rows

        def share_of_draws(number: int) -> float:
            return float(stats.binom.sf(rank - 1, n, below[number]))

        bins = range(len(below))
        low, high = (bisect_left(bins, share, key=share_of_draws) for share in (tail, 1 - tail))
        return float(self.values[low]), float(self.values[min(high, len(below) - 1)])

    def mean_draws(self, num_draws: int, generator: np.random.Generator) -> Floats:
        """Return the means of bootstrap draws of the finite values, (num_draws,).

        Without finite values, the means are infinite.
        Rows are drawn from coarser bins, 3 % of their value wide. Such bins are narrow enough not
        to change the spread of the means.
        """
        if not self.num_finite:
            return np.full(num_draws, self.values.sum())
        is_finite = np.isfinite(self.sums)
        bins = self.bins[is_finite]
        coarse = np.sign(bins) * (
            (np.abs(bins) - 1) * BOOTSTRAP_BINS_PER_OCTAVE // BINS_PER_OCTAVE + 1
        )
        _, start = np.unique(coarse, return_index=True)
        counts = np.add.reduceat(self.counts[is_finite], start)
        values = np.add.reduceat(self.sums[is_finite], start) / counts
        drawn = generator.multinomial(self.num_finite, counts / self.num_finite, size=num_draws)
        return np.asarray(drawn @ values / self.num_finite, np.float64)


def share_interval(share: float, effective_rows: float, confidence: float) -> Interval:
    """Return the interval of a share, 0 to 1, of rows: the exact one of Clopper and Pearson 1934.

    `effective_rows` can be a fraction; they are fewer than the rows where these depend on each
    other.
    """
    tail, n = (1 - confidence) / 2, effective_rows
    low = stats.beta.ppf(tail, share * n, (1 - share) * n + 1) if share > 0 else 0.0
    high = stats.beta.isf(tail, share * n + 1, (1 - share) * n) if share < 1 else 1.0
    return float(low), float(high)


def interval_of(draws: Floats, confidence: float) -> Interval:
    """Return the interval that holds the middle share, 0 to 1, of the bootstrap draws, (N,)."""
    tail = (1 - confidence) / 2
    ordered = np.sort(draws)  # np.quantile interpolates, and would make NaN of infinite draws
    low, high = (ordered[round(share * (len(draws) - 1))] for share in (tail, 1 - tail))
    return float(low), float(high)


def estimate(value: float, draws: Floats, num_references: int, confidence: float) -> Estimate:
    """Return a figure with its interval from bootstrap draws of references, (draws,).

    Percentile intervals of few references are too narrow. This one takes the percentiles that are
    Student's interval where draws are normal (the expanded percentile interval, Hesterberg 2015).
    """
    if num_references < MIN_ROWS:
        return Estimate(value=value, low=None, high=None)
    quantile = stats.t.isf((1 - confidence) / 2, num_references - 1)
    level = 1 - 2 * stats.norm.sf(quantile * math.sqrt(num_references / (num_references - 1)))
    return Estimate.of(value, interval_of(draws, float(level)), num_references)


def estimate_share(value: float, draws: Floats, num_references: int, confidence: float) -> Estimate:
    """Return a share with its interval; of all or none, whose draws are all equal, the exact one.

    That is Clopper and Pearson's 1934: the share in which a run of wins so long is just likely.
    """
    found = estimate(value, draws, num_references, confidence)
    if found.low is None or value not in (0, 1):
        return found
    end = ((1 - confidence) / 2) ** (1 / num_references)
    low, high = (end, 1.0) if value else (0.0, 1 - end)
    return Estimate(value=value, low=low, high=high)


def cliffs_delta(first: Distribution, second: Distribution) -> float:
    """Compare two samples, not empty, by ranks: are the first one's values larger?

    Values in the same bin count as tied.

    Returns:
        Cliff's delta, -1 to 1: the share of pairs of values in which the first sample's is larger,
        minus the share in which it is smaller.
    """
    bins = np.union1d(first.bins, second.bins)
    counts = np.zeros((2, len(bins)))
    for row, sample in zip(counts, (first, second), strict=True):
        row[np.searchsorted(bins, sample.bins)] = sample.counts
    below = np.cumsum(counts[1]) - counts[1]
    larger = float((counts[0] * (below + counts[1] / 2)).sum())  # the Mann-Whitney U
    return 2 * larger / (first.num_rows * second.num_rows) - 1
