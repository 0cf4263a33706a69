"""Batches for training: of embedded data sets, or of image crops; drawn anew in every epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from spips_core.errors import DatasetError
from spips_core.learning.datasets import Example, Examples, describe_size
from spips_core.learning.embedding import QualityMeans

Images = tuple[Tensor, Tensor]
"""References (B, 3, H, W) and their distorted versions (B, K, 3, H, W), uint8."""


@dataclass(frozen=True)
class Batch:
    """B examples of one data set, each with K distorted images.

    Attributes:
        kind: rated, triplets, severity_series or jury; it decides the loss.
        weight: factor of the loss.
        targets: (B,) float32; (B, K) from a jury.
        references: (B,) int64; equal numbers mean the same reference.
        content: quality means, by stream tensors (B, K, C_l); or the images to compute them from.
    """

    kind: str
    weight: float
    targets: Tensor
    references: Tensor
    content: QualityMeans | Images


class Source(Protocol):
    """Where the batches of one data set come from."""

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield a batch for each list of positions."""


@dataclass(frozen=True)
class EmbeddedSource:
    """A data set of N examples that has passed through the frozen trunk once.

    It has a `Batch`'s fields with N for B; the quality means are tensors (N, K, C_l) by stream.
    """

    kind: str
    weight: float
    targets: Tensor
    references: Tensor
    quality_means: QualityMeans

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield a batch for each list of positions."""
        for chosen in batches:
            index = torch.as_tensor(chosen)
            means = {name: [q[index] for q in qs] for name, qs in self.quality_means.items()}
            yield Batch(self.kind, self.weight, self.targets[index], self.references[index], means)


@dataclass(frozen=True)
class ImageSource:
    """A data set whose images are read and cropped for every batch.

    A position is an index into `indices`, the examples in use. Crops are cut at the same place
    from all images of an example. With 0 loaders this process reads.
    """

    kind: str
    weight: float
    examples: Examples
    indices: Sequence[int]
    crop_px: int
    num_loaders: int

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield a batch for each list of positions."""
        chosen = [[self.indices[position] for position in batch] for batch in batches]
        numbers = number_references(self.examples.references)
        loader: DataLoader[Any] = DataLoader(
            self.examples,  # type: ignore[arg-type]  # the protocol has what a Dataset needs
            batch_sampler=chosen,
            num_workers=self.num_loaders,
            collate_fn=partial(_collate, crop_px=self.crop_px),
        )
        for indices, (images, targets) in zip(chosen, loader, strict=True):
            yield Batch(self.kind, self.weight, targets, numbers[indices], images)


def _collate(examples: Sequence[Example], crop_px: int) -> tuple[Images, Tensor]:
    references, distorted = [], []
    for example in examples:
        sides = example.reference.shape[1:]
        if min(sides) < crop_px:
            raise DatasetError(
                f"training.crop_px: expected images of at least {crop_px} px, "
                f"got {describe_size(example.reference)}"
            )
        top, left = (int(torch.randint(side - crop_px + 1, ())) for side in sides)
        window = np.s_[..., top : top + crop_px, left : left + crop_px]
        references.append(example.reference[window])
        distorted.append(example.distorted[window])
    targets = torch.tensor(np.array([e.target for e in examples]), dtype=torch.float32)
    return (torch.stack(references), torch.stack(distorted)), targets


def number_references(references: Sequence[str]) -> Tensor:
    """Return a number for each name, (N,) int64; equal names get equal numbers."""
    return torch.from_numpy(np.unique(np.asarray(references), return_inverse=True)[1])


def epoch_batches(
    sources: Sequence[Source], members: Sequence[NDArray[np.intp]],
    *, batch_size: int, num_steps: int, seed: int,
) -> Iterator[list[Batch]]:  # fmt: skip
    """Yield the steps of one epoch, each with a batch of every data set.

    The members of a data set are the positions that may be drawn. They are drawn without
    replacement; when they run out, they are drawn again. A set smaller than a batch gives all.
    """
    streams = []
    for number, (source, positions) in enumerate(zip(sources, members, strict=True)):
        generator = np.random.default_rng((seed, number))
        length = min(batch_size, len(positions))
        rounds = -(-num_steps * length // len(positions))
        order = np.concatenate([generator.permutation(positions) for _ in range(rounds)])
        chosen = [order[i * length : (i + 1) * length].tolist() for i in range(num_steps)]
        streams.append(source.batches(chosen))
    yield from map(list, zip(*streams, strict=True))
