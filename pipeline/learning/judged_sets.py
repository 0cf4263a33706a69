"""The data sets that the settings name, listed and checked: for training and for evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.learning.config import (
    BappsSetConfig,
    EvaluationDataConfig,
    RatedSetConfig,
    SeveritySetConfig,
    TrainingDataConfig,
)
from pipeline.runs.errors import ContractError
from spips_core.errors import SpipsError
from spips_core.learning.bapps import open_just_noticeable, open_triplets
from spips_core.learning.datasets import Examples
from spips_core.learning.distortions import DISTORTIONS
from spips_core.learning.rated_pairs import RatedPairs
from spips_core.learning.severity_series import SeveritySeries


@dataclass(frozen=True)
class JudgedSet:
    """A data set that says which images are better.

    Attributes:
        name: its name in tables.
        kind: rated, triplets, just_noticeable or severity_series; the kind of its judgements.
        examples: the data set.
        weight: factor of its loss in training.
    """

    name: str
    kind: str
    examples: Examples
    weight: float


SetConfig = RatedSetConfig | BappsSetConfig | SeveritySetConfig


def open_sets(data: TrainingDataConfig) -> list[JudgedSet]:
    """List and check every data set.

    Args:
        data: the data of a training or an evaluation.

    Raises:
        ContractError: lists every problem of every set.
    """
    chosen: list[tuple[str, SetConfig, Callable[[], Examples]]] = [
        *(("rated", r, partial(_rated_pairs, r)) for r in data.rated),
        *(("triplets", t, partial(open_triplets, t.path)) for t in data.triplets),
    ]
    if isinstance(data, EvaluationDataConfig):
        for j in data.just_noticeable:
            chosen.append(("just_noticeable", j, partial(open_just_noticeable, j.path)))
    for s in data.severity_series:
        chosen.append(("severity_series", s, partial(_severity_series, s)))
    sets, problems = [], []
    for kind, config, open_set in chosen:
        try:
            sets.append(JudgedSet(config.name, kind, open_set(), config.weight))
        except SpipsError as error:
            problems.append(f"data.{kind} {config.name}: {error}")
    if not chosen:
        problems.append("data: expected at least one set, got none")
    names = [config.name for _, config, _ in chosen]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems += [f"data: expected different names, got {name} twice" for name in repeated]
    if problems:
        raise ContractError(*problems)
    return sets


def _rated_pairs(config: RatedSetConfig) -> RatedPairs:
    return RatedPairs(
        config.path, reference=config.reference_column, distorted=config.distorted_column,
        quarters=config.quarters,
    )  # fmt: skip


def _severity_series(config: SeveritySetConfig) -> SeveritySeries:
    kinds = [kind for kind in config.kinds or DISTORTIONS if kind not in config.held_out]
    unknown = [kind for kind in config.held_out if kind not in DISTORTIONS]
    return SeveritySeries(
        config.path, unknown + kinds, num_series=config.num_series, side_px=config.side_px,
        seed=config.seed,
    )  # fmt: skip
