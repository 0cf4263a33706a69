"""The noise of a figure from night to night, learned from nights of an unchanged model.

If tonight's figure x and n earlier ones are draws of one normal distribution,
    x - mean <= t(1 - rate, n - 1) * s * sqrt(1 + 1/n)
in all but `rate` of nights. This is Student's prediction interval (Hahn 1969) with the mean and the
standard deviation s of the earlier nights. Two things would spoil these, and are looked for first:
a single night far from all others, and two states, between which a model flips. Both are gaps
between sorted figures, measured in standard deviations of what is on their two sides. They must be
wider than in all but 1 % of simulated nights of one normal distribution.
"""

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import special

from pipeline.audits.config import MIN_NIGHTS
from pipeline.audits.figures.distribution import Floats
from pipeline.runs.records import Record

CHANCE = 0.01
"""Share of nights of one state in which two, or a night far from all others, are seen."""
SIMULATED = 20_000
TWO_STATES = 0.02
"""Share of the false-alarm rate with two states. Finding them makes their spread look small."""
RESOLUTION = 1e-6
"""Figures are of float32 values, so this share of a figure is nothing."""
SMALLEST = 1e-300
"""Makes 0 / 0 a 0."""


class State(Record):
    """A level of a figure: its mean over some nights."""

    centre: float
    nights: tuple[str, ...]


class Noise(Record):
    """How a figure varies from night to night.

    Attributes:
        nights: names of the nights it is learned from, oldest first.
        values: the figure in each of them.
        left_out: those of the nights whose figure is far from all others.
        states: one, or two, lowest first. A model can flip between two.
        spread: standard deviation of the figure within states.
        rate: share of nights of an unchanged model in which a gate breaks, 0 to 1.
    """

    nights: tuple[str, ...]
    values: tuple[float, ...]
    left_out: tuple[str, ...]
    states: tuple[State, ...]
    spread: float
    rate: float

    def margin(self, state: State) -> float:
        """Return by how much tonight's figure can differ from a state's centre by chance."""
        degrees = sum(len(one.nights) for one in self.states) - len(self.states)
        rate = self.rate if len(self.states) == 1 else self.rate * TWO_STATES
        factor = float(-special.stdtrit(degrees, rate)) * math.sqrt(1 + 1 / len(state.nights))
        return max(factor * self.spread, RESOLUTION * abs(state.centre))

    def nearest(self, value: float, *, falls: bool = False) -> State:
        """Return the state that a figure is judged by: the worse one, unless it is better than it.

        Args:
            value: tonight's figure.
            falls: whether lower is worse.
        """
        sign = -1 if falls else 1
        *others, worse = sorted(self.states, key=lambda state: sign * state.centre)
        is_better = sign * (value - worse.centre) < -self.margin(worse)
        return others[0] if others and is_better else worse


def learn_noise(
    nights: Sequence[str], values: Sequence[float], rate: float, accepted: Collection[str] = ()
) -> Noise:
    """Learn how a figure varies from night to night.

    Args:
        nights: names of at least two nights, oldest first; of fewer than MIN_NIGHTS, all are taken
            for one state.
        values: the figure in each of them, finite.
        rate: share of nights of an unchanged model in which a gate may break, 0 to 0.5.
        accepted: names of nights that are a state of their own, however few they are.
    """
    order = np.argsort(values, kind="stable")
    names, ordered = [nights[i] for i in order], np.array(values, np.float64)[order]
    has_enough = len(names) >= MIN_NIGHTS
    splits = _find_splits(names, ordered, accepted) if has_enough else []
    left_out: list[str] = []
    while not splits and len(names) >= MIN_NIGHTS and len(left_out) < len(nights) // 5:
        widths = _widths(ordered)
        if max(widths[0], widths[-1]) <= _widest_by_chance(len(names)).lone:
            break
        place = 0 if widths[0] > widths[-1] else -1
        left_out.append(names.pop(place))
        ordered = np.delete(ordered, place)
    bounds = [0, *splits, len(names)]
    parts = [slice(*ends) for ends in pairwise(bounds)]
    squares = sum(((ordered[part] - ordered[part].mean()) ** 2).sum() for part in parts)
    return Noise(
        nights=nights, values=values, rate=rate,
        left_out=[night for night in nights if night in left_out],
        states=[State(centre=ordered[part].mean(), nights=sorted(names[part], key=nights.index))
                for part in parts],
        spread=math.sqrt(squares / (len(names) - len(parts))),
    )  # fmt: skip


def _find_splits(names: Sequence[str], ordered: Floats, accepted: Collection[str]) -> list[int]:
    """Return where sorted figures are split into two states, if they are."""
    chance = _widest_by_chance(len(names))
    wide = {}
    for below, width in enumerate(_widths(ordered), start=1):
        fewer = min(names[:below], names[below:], key=len)
        can_be_state = len(fewer) > 1 or fewer[0] in accepted
        if can_be_state and width > (chance.states if len(fewer) > 1 else chance.lone):
            wide[below] = width
    return [max(wide, key=lambda below: wide[below])] if wide else []


def _widths(ordered: Floats) -> Floats:
    """Return the gaps between (..., N) sorted figures, each in standard deviations, (..., N - 1).

    The deviations are those from the two means, of what is below the gap and of what is above it.
    """
    num, low = ordered.shape[-1], np.arange(1, ordered.shape[-1])
    centred = ordered - ordered.mean(axis=-1, keepdims=True)
    sums = np.cumsum(centred, axis=-1)[..., :-1]
    total = (centred**2).sum(axis=-1, keepdims=True)
    of_parts = total - sums**2 * (
        1 / low + 1 / (num - low)
    )  # the sums above a gap are the negative
    within = np.sqrt(np.maximum(of_parts, 0) / (num - 2))
    between = np.diff(ordered, axis=-1)
    rounding = RESOLUTION * np.abs(ordered).max(axis=-1, keepdims=True)
    # Equal figures on both sides have no standard deviation.
    widths = between / np.maximum(within, rounding / 100 + SMALLEST)
    return np.asarray(np.where(between > rounding, widths, 0.0))


class _Widest(NamedTuple):
    lone: float  # between one figure and all others
    states: float  # between two or more on either side


@lru_cache
def _widest_by_chance(num: int) -> _Widest:
    """Return how wide gaps are in all but CHANCE of simulated nights of one state."""
    ordered = np.sort(np.random.default_rng(0).normal(size=(SIMULATED, num)), axis=-1)
    widths = _widths(ordered)
    lone, states = widths[:, [0, -1]].max(axis=1), widths[:, 1:-1].max(axis=1)
    return _Widest(*(float(np.quantile(widest, 1 - CHANCE)) for widest in (lone, states)))
