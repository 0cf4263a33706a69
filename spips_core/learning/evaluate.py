"""How well scores agree with people: the figures of each kind of data set, with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spips_core.learning import metrics

Array = NDArray[np.float64]
Figure = Callable[[Array, Array, NDArray[np.intp]], float]
"""Takes scores (N, K), targets (N,) or (N, K) and reference numbers (N,); returns one number."""


def _first(metric: Callable[[Array, Array], float]) -> Figure:
    return lambda scores, targets, _: metric(scores[:, 0], targets)


def _decided(metric: Callable[[Array, Array], float]) -> Figure:
    """Correlate the decision, 0 or 1, as the paper's Tables II-VII do; equal scores count half."""

    def figure(scores: Array, targets: Array, _: NDArray[np.intp]) -> float:
        return metric((np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2, targets)

    return figure


def _continuous(metric: Callable[[Array, Array], float]) -> Figure:
    return lambda scores, targets, _: metric(scores[:, 0] - scores[:, 1], targets)


FIGURES: dict[str, dict[str, Figure]] = {
    "rated": {
        "srcc": _first(metrics.srcc),
        "krcc": _first(metrics.krcc),
        "plcc_fitted": _first(metrics.fitted_plcc),
        "rank_agreement": lambda s, t, r: metrics.rank_agreement(s[:, 0], t, r),
    },
    "triplets": {
        "two_afc": lambda s, t, _: metrics.two_afc(s[:, 0], s[:, 1], t),
        "plcc_binary": _decided(metrics.plcc),
        "srcc_binary": _decided(metrics.srcc),
        "krcc_binary": _decided(metrics.krcc),
        "plcc_continuous": _continuous(metrics.plcc),
        "srcc_continuous": _continuous(metrics.srcc),
        "krcc_continuous": _continuous(metrics.krcc),
    },
    "just_noticeable": {
        "map": _first(metrics.just_noticeable_map),
        "plcc": lambda s, t, _: metrics.plcc(s[:, 0], 1 - t),
        "srcc": lambda s, t, _: metrics.srcc(s[:, 0], 1 - t),
        "krcc": lambda s, t, _: metrics.krcc(s[:, 0], 1 - t),
    },
    "severity_series": {"rising": lambda s, _, __: metrics.rising_share(s)},
    "jury": {"srcc": lambda s, ranks, _: metrics.jury_srcc(s, ranks)},
}
"""The figures of each kind of data set; higher is better in all of them."""

MAIN_FIGURE = {
    "rated": "srcc", "triplets": "two_afc", "just_noticeable": "map", "severity_series": "rising",
    "jury": "srcc",
}  # fmt: skip
"""The one figure of each kind that a summary shows."""


@dataclass(frozen=True)
class Agreement:
    """One figure of one model on one data set, by its name in `FIGURES[kind]`.

    value is NaN when the set does not determine it. low and high are the ends of the 95 % bootstrap
    interval, NaN without one.
    """

    figure: str
    value: float
    low: float
    high: float
    num_examples: int


def agreements(
    kind: str, scores: Array, targets: Array, references: Sequence[str],
    *, num_samples: int, seed: int = 0,
) -> list[Agreement]:  # fmt: skip
    """Return every figure of a data set with its interval.

    The scores are (N, K), lower is better; for the targets (N,) see `Example`. `num_samples` is the
    number of bootstrap samples; 0 gives no intervals.
    """
    numbers = np.unique(np.asarray(references), return_inverse=True)[1].astype(np.intp)
    results = []
    for name, figure in FIGURES[kind].items():
        low, high = float("nan"), float("nan")
        if num_samples:
            low, high = metrics.bootstrap_interval(
                lambda chosen, draw, figure=figure: figure(scores[chosen], targets[chosen], draw),  # type: ignore[misc]
                references,
                num_samples=num_samples,
                seed=seed,
            )
        results.append(Agreement(name, figure(scores, targets, numbers), low, high, len(scores)))
    return results
