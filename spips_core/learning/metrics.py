"""How well scores agree with people: the figures in the paper's tables, and those of rated sets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Values = NDArray[np.float64]
CLEAR_DIFFERENCE = 5.0
"""People agree on the order of two ratings that differ by more than this, on a scale of 100."""
NUM_LOGISTIC_PARAMETERS = 5


def srcc(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Return Spearman's rank correlation, in [-1, 1]; NaN when either is constant."""
    return _correlation(lambda x, y: stats.spearmanr(x, y).statistic, scores, ratings)


def krcc(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Return Kendall's tau-b, in [-1, 1]; NaN when either is constant."""
    return _correlation(lambda x, y: stats.kendalltau(x, y).statistic, scores, ratings)


def plcc(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Return Pearson's linear correlation, in [-1, 1]; NaN when either is constant."""
    return _correlation(lambda x, y: stats.pearsonr(x, y).statistic, scores, ratings)


def _correlation(
    statistic: Callable[[Values, Values], Any], scores: ArrayLike, ratings: ArrayLike
) -> float:
    x, y = np.asarray(scores, np.float64), np.asarray(ratings, np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(statistic(x, y))


def fitted_plcc(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Return Pearson's correlation after the logistic fit that is standard in quality studies.

    Sheikh et al. 2006, with VQEG's five parameters:
        f(s) = b1 (1/2 - 1 / (1 + exp(b2 (s - b3)))) + b4 s + b5

    Args:
        scores: (N,), any scale.
        ratings: (N,), MOS or DMOS.

    Returns:
        In [0, 1]; NaN when scores or ratings are constant, or when N <= 5.
    """
    x, y = np.asarray(scores, np.float64), np.asarray(ratings, np.float64)
    if len(x) <= NUM_LOGISTIC_PARAMETERS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x = (x - x.mean()) / x.std()
    slope, intercept = np.polyfit(x, y, 1)

    def logistic(s: Values, b1: float, b2: float, b3: float, b4: float, b5: float) -> Values:
        sigmoid = 0.5 * (1 + np.tanh(-b2 * (s - b3) / 2))
        return np.asarray(b1 * (0.5 - sigmoid) + b4 * s + b5)

    sign = 1.0 if slope >= 0 else -1.0
    start = (sign * np.ptp(y), 1.0, float(np.median(x)), 0.0, float(y.mean()))
    best = abs(plcc(slope * x + intercept, y))
    try:
        fit, _ = optimize.curve_fit(logistic, x, y, p0=start, maxfev=20_000)
    except (RuntimeError, optimize.OptimizeWarning):
        return best  # the straight line
    return max(best, plcc(logistic(x, *fit), y))


def rank_agreement(scores: ArrayLike, dmos: ArrayLike, references: ArrayLike) -> float:
    """Return how often the scores order two distorted images of one reference as people do.

    Args:
        scores: (N,), lower is better.
        dmos: (N,), higher is worse, on a scale of 100. Images that differ by 5 or less are not
            compared.
        references: (N,); equal values mean the same reference.

    Returns:
        In [0, 1]; equal scores count half. NaN when no two images can be compared.
    """
    agreeing, total = 0.0, 0
    scores, dmos = np.asarray(scores, np.float64), np.asarray(dmos, np.float64)
    names = np.asarray(references)
    for name in np.unique(names):
        is_member = names == name
        differences = dmos[is_member][:, None] - dmos[is_member][None]
        is_clear = differences > CLEAR_DIFFERENCE
        order = np.sign(scores[is_member][:, None] - scores[is_member][None])
        agreeing += float(((order[is_clear] + 1) / 2).sum())
        total += int(is_clear.sum())
    return agreeing / total if total else float("nan")


def two_afc(scores_0: ArrayLike, scores_1: ArrayLike, preferences: ArrayLike) -> float:
    """Return the agreement with people who chose the better of two images.

    Zhang et al. 2018: the mean of [d0 < d1](1 - j) + [d1 < d0] j + [d0 = d1] / 2.

    Args:
        scores_0: (N,) of the first images, lower is better.
        scores_1: (N,) of the second images.
        preferences: (N,) in [0, 1], the share j of people who preferred the second.

    Returns:
        In [0, 1], higher is better; 0.5 is chance.
    """
    first, second = np.asarray(scores_0, np.float64), np.asarray(scores_1, np.float64)
    j = np.asarray(preferences, np.float64)
    agreement = np.where(first < second, 1 - j, np.where(second < first, j, 0.5))
    return float(agreement.mean())


def just_noticeable_map(scores: ArrayLike, shares_same: ArrayLike) -> float:
    """Return the average precision of the score as a detector of pairs that look the same.

    Pairs are sorted by score. At each cut, the shares of people who said "same" are true positives,
    the other shares false positives. Precision is made non-increasing from the right (all-point
    interpolation) and integrated over recall. Pairs of equal score enter together.

    Args:
        scores: any shape with N elements, lower is better.
        shares_same: any shape with N elements, in [0, 1].

    Returns:
        In [0, 1], higher is better; NaN when nobody said "same".
    """
    distances = np.asarray(scores, np.float64).reshape(-1)
    same = np.asarray(shares_same, np.float64).reshape(-1)
    if same.sum() == 0:
        return float("nan")
    order = np.argsort(distances, kind="stable")
    is_last = np.append(np.diff(distances[order]) > 0, True)
    true = np.cumsum(same[order])[is_last]
    false = np.cumsum(1 - same[order])[is_last]
    precision = np.maximum.accumulate((true / (true + false))[::-1])[::-1]
    recall = true / same.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def jury_srcc(scores: ArrayLike, ranks: ArrayLike) -> float:
    """Return Spearman's correlation with a jury's ranks over all images that it ranks.

    Args:
        scores: (N, levels), lower is better.
        ranks: (N, levels), higher is worse; NaN where the jury has no say.

    Returns:
        In [-1, 1]; NaN when it ranks no two images differently.
    """
    x, y = np.asarray(scores, np.float64).ravel(), np.asarray(ranks, np.float64).ravel()
    is_ranked = np.isfinite(y)
    return srcc(x[is_ranked], y[is_ranked])


def rising_share(scores: ArrayLike) -> float:
    """Return how often the next stronger level of a distortion has the higher score.

    Args:
        scores: (N, levels), N severity series, weak to strong.

    Returns:
        In [0, 1], the share of all steps from a level to the next.
    """
    return float((np.diff(np.asarray(scores, np.float64), axis=1) > 0).mean())


def bootstrap_interval(
    figure: Callable[[NDArray[np.intp], NDArray[np.intp]], float],
    references: Sequence[str],
    *,
    num_samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a figure.

    Whole references are drawn, because pairs of one reference are not independent.

    Args:
        figure: takes the indices of the drawn pairs and the number of each pair's draw, and returns
            the figure. A reference that is drawn twice counts as two references.
        references: (N,); equal names mean the same reference.
        num_samples: number of bootstrap samples.
        seed: seed of the draws.

    Returns:
        The 2.5th and 97.5th percentile; NaN when there are fewer than two references.
    """
    names, member = np.unique(np.asarray(references), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    pairs = [np.flatnonzero(member == index) for index in range(len(names))]
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(num_samples):
        chosen = [pairs[i] for i in generator.integers(0, len(names), len(names))]
        draw = np.repeat(np.arange(len(chosen)), [len(indices) for indices in chosen])
        draws.append(figure(np.concatenate(chosen), draw))
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if np.isfinite(draws).any() else (np.nan,) * 2
    return float(low), float(high)
