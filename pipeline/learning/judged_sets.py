"""The data sets that the settings name, listed and checked: for training and for evaluation."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.learning.config import (
    JurySetConfig,
    RatedSetConfig,
    SeveritySetConfig,
    TrainingDataConfig,
)
from pipeline.runs.errors import ContractError
from spips_core.errors import SpipsError
from spips_core.learning.bapps import open_just_noticeable, open_triplets
from spips_core.learning.datasets import Examples
from spips_core.learning.distortions import DISTORTIONS
from spips_core.learning.jury import JurySeries
from spips_core.learning.rated_pairs import RatedPairs
from spips_core.learning.severity_series import SeveritySeries


@dataclass(frozen=True)
class JudgedSet:
    """A data set that says which images are better.

    Its kind is rated, triplets, just_noticeable, severity_series or jury; its weight, the factor of
    its loss in training.
    """

    name: str
    kind: str
    examples: Examples
    weight: float


def open_sets(data: TrainingDataConfig) -> list[JudgedSet]:
    """List and check every data set.

    Raises:
        ContractError: lists every problem of every set.
    """
    openers: dict[str, Callable[[Any], Examples]] = {
        "rated": _rated_pairs,
        "triplets": lambda subset: open_triplets(subset.path),
        "just_noticeable": lambda subset: open_just_noticeable(subset.path),
        "severity_series": _severity_series,
        "jury": lambda config: _jury_series(config, Path(str(data.cache))),
    }
    sets, names, problems = [], [], []
    for kind, open_set in openers.items():
        for config in getattr(data, kind, ()):  # a training has no just_noticeable
            names.append(config.name)
            try:
                sets.append(JudgedSet(config.name, kind, open_set(config), config.weight))
            except SpipsError as error:
                problems.append(f"data.{kind} {config.name}: {error}")
    if not names:
        problems.append("data: expected at least one set, got none")
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
    return SeveritySeries(
        config.path, _kinds(config), num_series=config.num_series, side_px=config.side_px,
        seed=config.seed,
    )  # fmt: skip


def _jury_series(config: JurySetConfig, cache: Path) -> JurySeries:
    def report(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            sys.stdout.write(f"{config.name}: {done} of {total} series judged by the jury\n")

    return JurySeries(
        config.path, _kinds(config), num_series=config.num_series, side_px=config.side_px,
        seed=config.seed, jurors=config.jurors, cache=cache, report=report,
    )  # fmt: skip


def _kinds(config: SeveritySetConfig) -> list[str]:
    """Return the kinds in use, after unknown names, which the data set refuses."""
    families = {distortion.family for distortion in DISTORTIONS.values()}
    unknown = [n for n in config.held_out if n not in DISTORTIONS and n not in families]
    held_out = {
        kind
        for kind, distortion in DISTORTIONS.items()
        if kind in config.held_out or distortion.family in config.held_out
    }
    return unknown + [kind for kind in config.kinds or DISTORTIONS if kind not in held_out]
