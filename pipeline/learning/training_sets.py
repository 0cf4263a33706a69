"""One worker's share of the data sets, embedded by the frozen trunk or read as images."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray.train.torch
import torch
from numpy.typing import NDArray

from pipeline.learning.config import TrainConfig
from pipeline.learning.judged_sets import JudgedSet, open_sets
from spips_core.learning.batches import EmbeddedSource, ImageSource, Source, number_references
from spips_core.learning.datasets import fold_of
from spips_core.learning.distortions import DISTORTIONS
from spips_core.learning.embedding import embed, make_embedder
from spips_core.model import SPIPS


@dataclass(frozen=True)
class TrainingSet:
    """One worker's N examples of a data set.

    shard (N,) contains their indices in the judged set, folds (N,) their folds, families (N,) the
    families of their distortions ("" where these are unknown). A position in the source is an index
    into the shard.
    """

    judged: JudgedSet
    shard: NDArray[np.intp]
    folds: NDArray[np.intp]
    families: NDArray[np.str_]
    source: Source


def make_training_sets(
    config: TrainConfig, model: SPIPS, *, rank: int, world_size: int
) -> list[TrainingSet]:
    """Return a worker's share of every data set; in mode lin the model's trunk embeds it."""
    judged_sets = open_sets(config.data)
    device = ray.train.torch.get_device()
    embedder = make_embedder(model).to(device) if config.training.mode == "lin" else None
    num_folds = max(1, config.training.num_folds)
    training_sets = []
    for judged in judged_sets:
        shard = np.arange(rank, len(judged.examples), world_size)
        among = references_of(judged_sets, judged.kind)
        folds = fold_of(judged.examples.references, num_folds, among)[shard]
        source = _make_source(config, judged, shard, embedder, device)
        families = np.asarray(families_of(judged))[shard]
        training_sets.append(TrainingSet(judged, shard, folds, families, source))
    return training_sets


def families_of(judged: JudgedSet) -> list[str]:
    """Return the family of each example's synthetic distortion; "" for what people rated."""
    if judged.kind not in ("severity_series", "jury"):
        return [""] * len(judged.examples)
    return [DISTORTIONS[kind].family for kind in judged.examples.kinds]


def references_of(judged_sets: Sequence[JudgedSet], kind: str) -> list[str]:
    """Return the references of all examples of one kind."""
    return [name for s in judged_sets if s.kind == kind for name in s.examples.references]


def _make_source(
    config: TrainConfig, judged: JudgedSet, shard: NDArray[np.intp], embedder: SPIPS | None,
    device: torch.device,
) -> Source:  # fmt: skip
    if embedder is None:
        return ImageSource(
            judged.kind, judged.weight, judged.examples, shard.tolist(),
            config.training.crop_px, config.workers.num_loaders,
        )  # fmt: skip

    def report(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            sys.stdout.write(f"{judged.name}: {done} of {total} embedded\n")

    cache = Path(config.data.cache) if config.data.cache else None
    means = embed(embedder, judged.examples, shard.tolist(), cache=cache, report=report)
    return EmbeddedSource(
        judged.kind,
        judged.weight,
        torch.tensor(judged.examples.targets[shard], dtype=torch.float32, device=device),
        number_references(judged.examples.references)[shard].to(device),
        {name: [q.to(device) for q in qs] for name, qs in means.items()},
    )
