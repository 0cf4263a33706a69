"""Fit a SPIPS model to what people judged: the loop, knowing nothing of Ray or storage.

The recipe is LPIPS's (Zhang et al. 2018), as the paper asks: the streams' weights stay >= 0,
dropout stands before each 1 x 1 convolution, a small net turns two scores into a preference. To
its triplets are added rated pairs and severity_series of distortions.

In mode `lin` the trunk is frozen, so each data set passes through it only once: with weights >= 0 a
score depends on the quality maps by their means alone, and those are kept.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from spips_core.errors import DatasetError
from spips_core.fusion import PerceptronFusion, WeightedFusion
from spips_core.learning.datasets import Example, Examples
from spips_core.learning.embedding import Quality
from spips_core.learning.losses import (
    PreferenceNet,
    preference_loss,
    rating_loss,
    severity_loss,
    within_reference_loss,
)
from spips_core.model import SPIPS

QUANTILE_AT_ONE = 0.95
"""A finished model gives this share of its training images a score below 1."""
ADAM_BETAS = (0.9, 0.99)
"""Large batches of a few hundred ratings need no long memory of squared gradients."""

SMALLEST_SCALE = 0.01
"""The least that a quality channel is divided by, as a share of its neighbours' mean."""


@dataclass(frozen=True)
class Batch:
    """Some examples of one data set.

    Attributes:
        kind: rated, triplets or severity_series: what its judgements are, which decides the loss.
        weight: factor of its loss.
        targets: (B,) float32.
        references: (B,) int64, which examples share a reference.
        quality: means of the quality maps, by stream tensors (B, K, C_l); or None, with
        images: references (B, 3, H, W) and distorted (B, K, 3, H, W), uint8.
    """

    kind: str
    weight: float
    targets: Tensor
    references: Tensor
    quality: Quality | None = None
    images: tuple[Tensor, Tensor] | None = None


class Source(Protocol):
    """Where batches of one data set come from."""

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield a batch for each list of positions."""


@dataclass(frozen=True)
class EmbeddedSource:
    """A data set that has passed through the frozen trunk.

    Attributes:
        kind: of the judgements.
        weight: of the loss.
        targets: (N,) float32.
        references: (N,) int64, which examples share a reference.
        quality: by stream, tensors (N, K, C_l).
    """

    kind: str
    weight: float
    targets: Tensor
    references: Tensor
    quality: Quality

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield a batch for each list of positions."""
        for chosen in batches:
            index = torch.as_tensor(chosen)
            quality = {name: [q[index] for q in qs] for name, qs in self.quality.items()}
            yield Batch(
                self.kind, self.weight, self.targets[index], self.references[index], quality
            )


@dataclass(frozen=True)
class ImageSource:
    """A data set whose images are read, cropped to one size and passed through the trunk anew.

    Attributes:
        kind: of the judgements.
        weight: of the loss.
        examples: the data set.
        indices: of the examples in use; a position points here.
        crop_px: side of the crops; the same place in all images of an example.
        num_loaders: processes that read; 0 reads in this one.
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
        numbers = reference_numbers(self.examples.references)
        loader: DataLoader[Any] = DataLoader(
            self.examples,  # type: ignore[arg-type]  # the protocol says what a Dataset has
            batch_sampler=chosen,
            num_workers=self.num_loaders,
            collate_fn=partial(_collate, crop_px=self.crop_px),
        )
        for indices, (reference, distorted, targets) in zip(chosen, loader, strict=True):
            yield Batch(
                self.kind, self.weight, targets, numbers[indices], images=(reference, distorted)
            )


def _collate(examples: Sequence[Example], crop_px: int) -> tuple[Tensor, Tensor, Tensor]:
    references, distorted = [], []
    for example in examples:
        height_px, width_px = example.reference.shape[1:]
        if min(height_px, width_px) < crop_px:
            raise DatasetError(
                f"training.crop_px: expected images of at least {crop_px} px, "
                f"got {height_px} x {width_px}"
            )
        top = int(torch.randint(height_px - crop_px + 1, ()))
        left = int(torch.randint(width_px - crop_px + 1, ()))
        window = np.s_[..., top : top + crop_px, left : left + crop_px]
        references.append(example.reference[window])
        distorted.append(example.distorted[window])
    targets = torch.tensor([example.target for example in examples], dtype=torch.float32)
    return torch.stack(references), torch.stack(distorted), targets


def reference_numbers(references: Sequence[str]) -> Tensor:
    """Return a number for each name, the same for the same name.

    Args:
        references: (N,).

    Returns:
        (N,) int64.
    """
    return torch.from_numpy(np.unique(np.asarray(references), return_inverse=True)[1])


class Trainee(nn.Module):
    """A model while it learns: with dropout, a preference net, and all quality channels alike."""

    def __init__(
        self,
        model: SPIPS,
        scales: Quality,
        *,
        dropout: float = 0.0,
        weight_decay_to_init: float = 0.0,
    ) -> None:
        """Put the model's streams on the scale of their inputs.

        Args:
            model: changed in place as it learns.
            scales: by stream, the mean of each quality channel over training data, (C_l,): what
                the channels are divided by, since they differ by orders of magnitude.
            dropout: share of the quality channels left out at each step.
            weight_decay_to_init: how strongly the streams' weights are held to their start.
        """
        super().__init__()
        self.model = model
        self.preference = PreferenceNet()
        self.dropout = dropout
        self.weight_decay_to_init = weight_decay_to_init
        for stream in model.config.streams:
            for index, scale in enumerate(scales[stream]):
                # A channel that hardly ever answers in training must not shout elsewhere.
                floor = SMALLEST_SCALE * scale.mean().clamp(min=1e-12)
                self.register_buffer(_scale_name(stream, index), scale.clamp(min=floor))
            # Every map begins with the same part in the score, though a stream averages its maps.
            convs = _convs(model.streams[stream])
            for conv in convs:
                nn.init.constant_(conv.weight, len(convs) / conv.in_channels)
        if isinstance(model.fusion, WeightedFusion):
            # Eq. (12)'s weights only repeat the scale of the streams'; `finish` sets them.
            model.fusion.requires_grad_(False)

    def scores(self, batch: Batch) -> Tensor:
        """Return the score of every distorted image, (B, K)."""
        return self.model.fuse(self.means(batch)).view(len(batch.targets), -1)

    def means(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of each stream for every distorted image, (B K,)."""
        quality = pair_quality(self.model, batch)
        return self.model.stream_means(
            {
                name: [self._scale(name, index, q) for index, q in enumerate(qs)]
                for name, qs in quality.items()
            }
        )

    def _scale(self, stream: str, index: int, quality: Tensor) -> Tensor:
        scale = self.get_buffer(_scale_name(stream, index))
        return functional.dropout(quality / scale, self.dropout, self.training)

    def forward(self, batches: Sequence[Batch]) -> Tensor:
        """Return the loss: of every batch by its weight, and of the weights' departure."""
        losses = torch.stack([batch.weight * self._loss(batch) for batch in batches])
        return losses.sum() + self.weight_decay_to_init * self.departure()

    def _loss(self, batch: Batch) -> Tensor:
        scores = self.scores(batch)
        if batch.kind == "rated":
            dmos = batch.targets.to(scores)
            return rating_loss(scores, dmos) + within_reference_loss(scores, dmos, batch.references)
        if batch.kind == "triplets":
            return preference_loss(self.preference, scores, batch.targets.to(scores))
        return severity_loss(scores)

    def departure(self) -> Tensor:
        """Return how far the streams' weights are from their start, the mean squared ratio less 1.

        Added to the loss, it keeps thousands of weights from following a few hundred ratings.
        """
        ratios = [
            conv.weight.flatten() * conv.in_channels / len(convs)
            for convs in map(_convs, self.model.streams.values())
            for conv in convs
        ]
        return (torch.cat(ratios) - 1).square().mean()

    @torch.no_grad()
    def clamp_streams(self) -> None:
        """Keep the streams' weights >= 0, and only those: more difference is never better."""
        for parameter in self.model.streams.parameters():
            parameter.clamp_(min=0)


def _convs(stream: nn.Module) -> list[nn.Conv2d]:
    return [module for module in stream.modules() if isinstance(module, nn.Conv2d)]


def _scale_name(stream: str, index: int) -> str:
    return f"scale_{stream}_{index}"


def make_optimizer(
    trainee: Trainee, *, learning_rate: float, trunk_learning_rate: float | None
) -> torch.optim.Adam:
    """Return Adam, its steps alike for all channels as they enter the score.

    Steps relative to where each weight starts, 1 / channels, leave the many channels of the last
    maps nearly where they were: with AlexNet's trunk that cost .002 of SRCC.

    Args:
        trainee: what learns.
        learning_rate: of a weight that starts at 1; the streams' weights start lower, and so move.
        trunk_learning_rate: None leaves the trunk frozen.
    """
    model = trainee.model
    widths = [parameter.shape[1] for parameter in model.streams.parameters()]
    mean_start = len(widths) / sum(widths)
    groups = [
        {
            "params": list(stream.parameters()),
            "lr": learning_rate * mean_start * len(_convs(stream)),
        }
        for stream in model.streams.values()
    ]
    groups.append({"params": list(model.fusion.parameters()), "lr": learning_rate})
    groups.append({"params": list(trainee.preference.parameters()), "lr": learning_rate})
    if trunk_learning_rate is not None:
        model.trunk.requires_grad_(True)
        groups.append({"params": list(model.trunk.parameters()), "lr": trunk_learning_rate})
    for group in groups:
        group["highest_lr"] = group["lr"]
    return torch.optim.Adam(groups, betas=ADAM_BETAS)


def epoch_batches(
    sources: Sequence[Source],
    members: Sequence[NDArray[np.intp]],
    *,
    batch_size: int,
    num_steps: int,
    seed: int,
) -> Iterator[list[Batch]]:
    """Yield one epoch's steps: a batch of each data set, drawn without replacement, then again.

    Args:
        sources: the data sets.
        members: for each, the positions that may be drawn.
        batch_size: examples of each data set in a step, or all it has.
        num_steps: number of steps.
        seed: of the order.
    """
    streams = []
    for number, (source, positions) in enumerate(zip(sources, members, strict=True)):
        generator = np.random.default_rng((seed, number))
        length = min(batch_size, len(positions))
        rounds = -(-num_steps * length // len(positions))
        order = np.concatenate([generator.permutation(positions) for _ in range(rounds)])
        chosen = [order[i * length : (i + 1) * length].tolist() for i in range(num_steps)]
        streams.append(source.batches(chosen))
    for step in zip(*streams, strict=True):
        yield list(step)


def train_epoch(
    trainee: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterator[list[Batch]],
    *,
    factor: float,
) -> float:
    """Train for one epoch.

    Args:
        trainee: a `Trainee`, or one wrapped for training across processes.
        optimizer: of its parameters.
        steps: for each step, a batch of each data set.
        factor: what the learning rates are multiplied by in this epoch.

    Returns:
        The mean loss.
    """
    inner: Any = getattr(trainee, "module", trainee)  # what a wrapper for processes holds
    trainee.train()
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * factor
    losses_of_steps = []
    for batches in steps:
        loss = trainee(batches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        inner.clamp_streams()
        losses_of_steps.append(loss.item())
    return float(np.mean(losses_of_steps))


def rate_factor(epoch: int, num_epochs: int) -> float:
    """Return what the learning rates are multiplied by: from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * epoch / num_epochs))


def fold_of(
    references: Sequence[str], num_folds: int, among: Sequence[str] = ()
) -> NDArray[np.intp]:
    """Return the fold of every example: references in order of name, dealt out in turn.

    Args:
        references: (N,), which examples share a reference.
        num_folds: number of folds.
        among: references of other sets that are dealt out with these, so that one picture is in
            one fold whichever set shows it.

    Returns:
        (N,) in [0, num_folds).
    """
    everyone = np.unique(np.asarray([*references, *among]))
    return np.asarray(np.searchsorted(everyone, np.asarray(references)) % num_folds, np.intp)


@torch.no_grad()
def mean_quality(model: SPIPS, steps: Iterator[list[Batch]]) -> Quality:
    """Return the mean of each quality channel over some batches, by stream tensors (C_l,).

    Args:
        model: whose streams are asked for.
        steps: batches of each data set.
    """
    sums: Quality = {}
    count = 0
    for batch in (batch for batches in steps for batch in batches):
        quality = pair_quality(model, batch)
        for name, qs in quality.items():
            means = [q.mean(0) for q in qs]
            before = sums.get(name, [torch.zeros_like(mean) for mean in means])
            sums[name] = [a + b for a, b in zip(before, means, strict=True)]
        count += 1
    return {name: [q / count for q in qs] for name, qs in sums.items()}


def pair_quality(model: SPIPS, batch: Batch) -> Quality:
    """Return the means of the quality maps of every distorted image.

    Args:
        model: whose streams are asked for.
        batch: of B examples with K distorted images each.

    Returns:
        By stream, tensors (B K, C_l).
    """
    if batch.quality is not None:
        return {
            name: [q.flatten(0, 1) for q in batch.quality[name]] for name in model.config.streams
        }
    assert batch.images is not None  # noqa: S101 - one of the two is given
    reference, distorted = batch.images
    repeated = reference[:, None].expand_as(distorted).flatten(0, 1)
    return model.quality_means(repeated, distorted.flatten(0, 1))


@torch.no_grad()
def predict(trainee: Trainee, batches: Iterator[Batch]) -> Tensor:
    """Return the scores of distorted images, (N, K), lower is better.

    Args:
        trainee: what has learned so far.
        batches: of one data set, in order.
    """
    trainee.eval()
    return torch.cat([trainee.scores(batch) for batch in batches]).cpu()


@torch.no_grad()
def finish(trainee: Trainee, batches: Iterator[Batch]) -> SPIPS:
    """Return a copy of the trainee's model that stands alone, without changing any order.

    The scales go into the streams' weights. Then streams and fusion are set so that every stream
    has the score's mean over the training images, which makes a fusion weight the stream's share
    of the score, and so that 95 % of those images score below 1.

    Args:
        trainee: trained.
        batches: of all training data.

    Returns:
        The model, in evaluation mode, its trunk frozen.
    """
    trainee.eval()
    model = copy.deepcopy(trainee.model)  # the trainee may be kept, and finished once more
    means = [trainee.means(batch) for batch in batches]
    by_stream = {name: torch.cat([mean[name] for mean in means]) for name in means[0]}
    unit = torch.quantile(model.fuse(by_stream), QUANTILE_AT_ONE).clamp(min=1e-12)
    factors = dict.fromkeys(by_stream, torch.ones_like(unit))
    if isinstance(model.fusion, WeightedFusion):
        share = model.fusion.weights * torch.stack([m.mean() for m in by_stream.values()])
        share = (share / share.sum()).clamp(min=1e-6)
        for name, old, new in zip(by_stream, model.fusion.weights, share, strict=True):
            factors[name] = old / new / unit
        model.fusion.logits.copy_(share.log())
    elif isinstance(model.fusion, PerceptronFusion):
        level = model.fuse(by_stream).mean() / unit
        factors = {
            name: level / mean.mean().clamp(min=1e-6 * level) for name, mean in by_stream.items()
        }
        model.fusion.rescale(1 / unit.item(), torch.stack(list(factors.values())))
    for name in model.config.streams:
        for index, conv in enumerate(model.streams[name].convs):  # type: ignore[arg-type]
            scale = trainee.get_buffer(_scale_name(name, index)).view(1, -1, 1, 1)
            conv.weight.copy_(conv.weight / scale * factors[name])
    model.requires_grad_(True).trunk.requires_grad_(False)
    return model.eval()
