"""The data sets that a config names, listed and checked: for training and for evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.learning.config import EvaluationDataConfig, SeveritySetConfig, TrainingDataConfig
from pipeline.runs.errors import ContractError
from spips_core.errors import SpipsError
from spips_core.learning.datasets import (
    Examples,
    JustNoticeable,
    RatedPairs,
    SeveritySeries,
    Triplets,
)
from spips_core.learning.distortions import DISTORTIONS


@dataclass(frozen=True)
class JudgedSet:
    """A data set that says which images are better.

    Attributes:
        name: what people call it.
        kind: what its judgements are: rated, triplets, just_noticeable or severity_series.
        examples: the data set.
        weight: of its loss in training.
    """

    name: str
    kind: str
    examples: Examples
    weight: float


def open_sets(data: TrainingDataConfig) -> list[JudgedSet]:
    """List and check every data set.

    Args:
        data: of a training or an evaluation.

    Raises:
        ContractError: a set is not what it should be; every problem is listed.
    """
    makers: list[tuple[str, str, float, Callable[[], Examples]]] = []
    for r in data.rated:
        makers.append(("rated", r.name, r.weight, lambda r=r: RatedPairs(
            r.path, reference=r.reference_column, distorted=r.distorted_column, quarters=r.quarters
        )))  # type: ignore[misc]  # fmt: skip
    for t in data.triplets:
        makers.append(("triplets", t.name, t.weight, lambda t=t: Triplets(t.path)))  # type: ignore[misc]
    if isinstance(data, EvaluationDataConfig):
        for j in data.just_noticeable:
            makers.append(("just_noticeable", j.name, j.weight, lambda j=j: JustNoticeable(j.path)))  # type: ignore[misc]
    for s in data.severity_series:
        makers.append(("severity_series", s.name, s.weight, lambda s=s: _severity_series(s)))  # type: ignore[misc]
    sets, problems = [], []
    for kind, name, weight, make in makers:
        try:
            sets.append(JudgedSet(name, kind, make(), weight))
        except SpipsError as error:
            problems.append(f"data.{kind} {name}: {error}")
    if not makers:
        problems.append("data: expected at least one set, got none")
    names = [name for _, name, _, _ in makers]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"data: expected different names, got {name} twice" for name in twice]
    if problems:
        raise ContractError(*problems)
    return sets


def _severity_series(config: SeveritySetConfig) -> SeveritySeries:
    kinds = [kind for kind in config.kinds or DISTORTIONS if kind not in config.held_out]
    unknown = [kind for kind in config.held_out if kind not in DISTORTIONS]
    return SeveritySeries(
        config.path, unknown + kinds, num_series=config.num_series, side_px=config.side_px,
        seed=config.seed,
    )  # fmt: skip
