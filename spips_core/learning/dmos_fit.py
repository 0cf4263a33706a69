"""Fit the scale of the expected DMOS to people's ratings."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import optimize
from torch import Tensor

from spips_core.dmos_scale import LARGEST_DMOS, DmosScale
from spips_core.learning.batches import ImageSource, Source
from spips_core.learning.trainee import quality_means_of
from spips_core.model import SPIPS

COVERAGE = 0.9
"""Share of the ratings in the interval around the expected DMOS."""
EXPONENTS = (0.05, 20.0)
"""Bounds of the exponent. Scores that say nothing about the ratings would drive it to 0."""


def fit_dmos_scale(scores: ArrayLike, dmos: ArrayLike) -> DmosScale:
    """Fit a `DmosScale` by least squares on the DMOS.

    Args:
        scores: (N,) >= 0, of references that the scoring model has not seen.
        dmos: (N,), people's ratings of the same pairs, higher is worse, on a scale of 100.
    """
    s, ratings = np.asarray(scores, np.float64), np.asarray(dmos, np.float64)
    positive = s[s > 0]
    middle = float(np.log(np.median(positive))) if len(positive) else 0.0
    with np.errstate(divide="ignore"):  # a score of 0 has an expected DMOS of 0
        log_scores = np.log(s)

    def residuals(logs: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # far beyond the midpoint 100 is expected
            halvings = np.exp(np.exp(logs[0]) * (log_scores - logs[1]))
        return np.asarray(-LARGEST_DMOS * np.expm1(-np.log(2) * halvings) - ratings)

    low, high = np.log(EXPONENTS)
    fit = optimize.least_squares(
        residuals, x0=(0.0, middle), bounds=((low, middle - 20), (high, middle + 20))
    )
    half_width = np.quantile(np.abs(fit.fun), COVERAGE)
    exponent, midpoint = np.exp(fit.x)
    return DmosScale(float(exponent), float(midpoint), float(half_width), len(s))


@torch.no_grad()
def score_whole(model: SPIPS, source: Source, batches: Sequence[Sequence[int]]) -> Tensor:
    """Return a model's scores of rated pairs at their own size, (N,), by batches of positions."""
    if isinstance(source, ImageSource):  # its own batches hold crops
        examples = (source.examples[source.indices[i]] for batch in batches for i in batch)
        return torch.cat([model.score(e.reference[None], e.distorted).score for e in examples])
    means = (quality_means_of(model, batch) for batch in source.batches(batches))
    return torch.cat([model.fuse(model.stream_means(each)) for each in means])
