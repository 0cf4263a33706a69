import numpy as np
import pytest
from scipy import stats

from pipeline.audits.figures.distribution import (
    BINS_PER_OCTAVE,
    Distribution,
    cliffs_delta,
    interval_of,
    share_interval,
)


def counted(values):
    """A distribution as the tables count it, from plain values."""
    values = np.asarray(values, np.float64)
    magnitude = np.floor(np.log2(np.abs(np.where(values == 0, 1, values))) * BINS_PER_OCTAVE)
    bins = np.where(values == 0, 0, np.sign(values) * (magnitude + 1 + 48 * BINS_PER_OCTAVE))
    numbers, where, counts = np.unique(
        bins.astype(np.int64), return_inverse=True, return_counts=True
    )
    return Distribution(numbers, counts, np.bincount(where, values))


def sample(seed, n=2000, shift=0.0):
    return np.random.default_rng(seed).lognormal(-2 + shift, 0.8, n)


def test_mean_and_quantiles_are_those_of_the_values():
    values = np.concatenate([sample(0), -sample(1), [0, 0]])
    spread = counted(values)
    assert spread.num_rows == len(values)
    assert np.average(spread.values, weights=spread.counts) == pytest.approx(values.mean())
    for q in (0.01, 0.3, 0.5, 0.95):
        assert spread.quantile(q) == pytest.approx(
            np.quantile(values, q, method="inverted_cdf"), rel=2e-4, abs=1e-12
        )


def test_intervals_are_the_bootstrap_s():
    values = sample(0, 300)
    spread = counted(values)
    generator = np.random.default_rng(1)
    draws = generator.choice(values, (4000, 300))
    for got, of_draws in (
        (interval_of(spread.mean_draws(4000, generator), 0.9), draws.mean(axis=1)),
        (spread.quantile_interval(0.5, 0.9, 300),
         np.quantile(draws, 0.5, axis=1, method="inverted_cdf")),
        (share_interval((values > 0.2).mean(), 300, 0.9), (draws > 0.2).mean(axis=1)),
    ):  # fmt: skip
        expected = np.quantile(of_draws, [0.05, 0.95])
        assert got == pytest.approx(expected, abs=0.12 * np.ptp(expected))


@pytest.mark.parametrize("q", [0.05, 0.95, 0.99])
def test_the_interval_of_a_quantile_in_the_tail_of_few_rows_is_the_bootstrap_s(q):
    values = np.arange(1.0, 101.0)  # a value is its rank
    draws = np.random.default_rng(0).choice(values, (20_000, 100))
    of_draws = np.quantile(draws, q, axis=1, method="inverted_cdf")
    expected = np.quantile(of_draws, [0.025, 0.975])
    assert counted(values).quantile_interval(q, 0.95, 100) == pytest.approx(expected, abs=1)


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says():
    truth = np.exp(-2 + 0.8**2 / 2)
    held = 0
    for seed in range(300):
        draws = counted(sample(seed, 400)).mean_draws(500, np.random.default_rng(seed))
        low, high = interval_of(draws, 0.9)
        held += low <= truth <= high
    assert 0.83 <= held / 300 <= 0.95


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_cliffs_delta_is_mann_and_whitney_s_statistic(shift):
    first, second = sample(0, 300, shift), sample(1, 500)
    u = stats.mannwhitneyu(first, second).statistic
    assert cliffs_delta(counted(first), counted(second)) == pytest.approx(
        2 * u / (300 * 500) - 1, abs=1e-3
    )


def test_cliffs_delta_of_samples_of_one_value():
    assert cliffs_delta(counted([0.0, 0.0]), counted([0.0])) == 0
    assert cliffs_delta(counted([1.0]), counted([0.0])) == 1


@pytest.mark.parametrize(("count", "rows"), [(0, 30), (1, 30), (15, 30), (30, 30)])
def test_a_share_has_the_exact_interval(count, rows):
    exact = stats.binomtest(count, rows).proportion_ci(0.95, method="exact")
    assert share_interval(count / rows, rows, 0.95) == pytest.approx((exact.low, exact.high))


def test_fewer_effective_rows_widen_intervals():
    spread = counted(sample(0, 400))
    for interval in (
        lambda rows: spread.quantile_interval(0.9, 0.95, rows),
        lambda rows: share_interval(0.1, rows, 0.95),
    ):
        (low, high), (lower, higher) = interval(400), interval(100)
        assert 1.6 < (higher - lower) / (high - low) < 2.6
