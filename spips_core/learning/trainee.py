"""A SPIPS model while it learns: its scores on a batch, its loss, and the finished model."""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from spips_core.fusion import PerceptronFusion, WeightedFusion
from spips_core.learning.batches import Batch
from spips_core.learning.embedding import QualityMeans
from spips_core.learning.losses import (
    PreferenceNet,
    jury_loss,
    preference_loss,
    rating_loss,
    severity_loss,
    within_reference_loss,
)
from spips_core.model import SPIPS

QUANTILE_AT_ONE = 0.95
"""A finished model gives this share of its training images a score below 1."""

SMALLEST_SCALE = 0.01
"""Lower bound of a quality channel's scale, as a share of the mean scale of its map."""


class Trainee(nn.Module):
    """A model in training, with dropout, a preference net, and all quality channels on one scale.

    LPIPS's recipe (Zhang et al. 2018), as the paper asks: dropout comes before each 1 x 1
    convolution, the convolutions' weights stay >= 0, and a small net turns two scores into a
    preference.
    """

    def __init__(
        self, model: SPIPS, scales: QualityMeans,
        *, dropout: float = 0.0, weight_decay_to_init: float = 0.0,
    ) -> None:  # fmt: skip
        """Set the streams' weights, in place, to their start for scaled inputs.

        The scales are, by stream, the mean of each quality channel over training data, (C_l,). The
        channels differ by orders of magnitude, so they are divided by these.
        """
        super().__init__()
        self.model = model
        self.preference = PreferenceNet()
        self.dropout, self.weight_decay_to_init = dropout, weight_decay_to_init
        for stream in model.config.streams:
            for index, scale in enumerate(scales[stream]):
                # A channel that is nearly silent in training must not dominate on other images.
                floor = SMALLEST_SCALE * scale.mean().clamp(min=1e-12)
                self.register_buffer(_scale_name(stream, index), scale.clamp(min=floor))
            # A stream averages its maps; with these weights every map starts with the same part in
            # the score, whatever its number of channels.
            convs = convs_of(model.streams[stream])
            for conv in convs:
                nn.init.constant_(conv.weight, len(convs) / conv.in_channels)
        if isinstance(model.fusion, WeightedFusion):
            # Eq. (12)'s weights would only repeat the streams' scales. `finish` sets them.
            model.fusion.requires_grad_(False)

    def scores(self, batch: Batch) -> Tensor:
        """Return the score of every distorted image, (B, K); lower is better."""
        return self.model.fuse(self.stream_means(batch)).view(len(batch.targets), -1)

    def stream_means(self, batch: Batch) -> dict[str, Tensor]:
        """Return each stream's mean for every distorted image, (B K,)."""
        means = {
            name: [self._scale(name, index, q) for index, q in enumerate(qs)]
            for name, qs in quality_means_of(self.model, batch).items()
        }
        return self.model.stream_means(means)

    def _scale(self, stream: str, index: int, means: Tensor) -> Tensor:
        scale = self.get_buffer(_scale_name(stream, index))
        return functional.dropout(means / scale, self.dropout, self.training)

    def forward(self, batches: Sequence[Batch]) -> Tensor:
        """Return the loss: the weighted sum over the batches, plus the weight decay to init."""
        losses = torch.stack([batch.weight * self._loss(batch) for batch in batches])
        return losses.sum() + self.weight_decay_to_init * self.distance_from_init()

    def _loss(self, batch: Batch) -> Tensor:
        scores = self.scores(batch)
        if batch.kind == "rated":
            dmos = batch.targets.to(scores)
            return rating_loss(scores, dmos) + within_reference_loss(scores, dmos, batch.references)
        if batch.kind == "triplets":
            return preference_loss(self.preference, scores, batch.targets.to(scores))
        if batch.kind == "jury":
            return jury_loss(scores, batch.targets.to(scores))
        return severity_loss(scores)

    def distance_from_init(self) -> Tensor:
        """Return the mean of (w / w0 - 1)^2 over the streams' weights w, which start at w0.

        In the loss it is L2-SP (Li et al. 2018), relative to the start: it keeps thousands of
        weights from fitting a few hundred ratings.
        """
        ratios = [
            conv.weight.flatten() * conv.in_channels / len(convs)
            for convs in map(convs_of, self.model.streams.values())
            for conv in convs
        ]
        return (torch.cat(ratios) - 1).square().mean()

    @torch.no_grad()
    def clamp_streams(self) -> None:
        """Keep the streams' weights >= 0: more difference is never better."""
        for parameter in self.model.streams.parameters():
            parameter.clamp_(min=0)


def convs_of(stream: nn.Module) -> list[nn.Conv2d]:
    """Return a stream's convolutions, one for each set of maps of one size."""
    return [module for module in stream.modules() if isinstance(module, nn.Conv2d)]


def _scale_name(stream: str, index: int) -> str:
    return f"scale_{stream}_{index}"


def quality_means_of(model: SPIPS, batch: Batch) -> QualityMeans:
    """Return the quality means of every distorted image in a batch: by stream, (B K, C_l)."""
    if isinstance(batch.content, dict):
        means = batch.content
        return {name: [q.flatten(0, 1) for q in means[name]] for name in model.config.streams}
    reference, distorted = batch.content
    repeated = reference[:, None].expand_as(distorted).flatten(0, 1)
    return model.quality_means(repeated, distorted.flatten(0, 1))


@torch.no_grad()
def channel_scales(model: SPIPS, steps: Iterator[list[Batch]]) -> QualityMeans:
    """Return the mean of each quality channel over batches of equal weight: by stream, (C_l,)."""
    means = [
        {name: [q.mean(0) for q in qs] for name, qs in quality_means_of(model, batch).items()}
        for batches in steps
        for batch in batches
    ]
    return {
        name: [
            sum(taps, torch.zeros(())) / len(taps)
            for taps in zip(*(m[name] for m in means), strict=True)
        ]
        for name in means[0]
    }


@torch.no_grad()
def predict(trainee: Trainee, batches: Iterator[Batch]) -> Tensor:
    """Return the scores of a data set's batches, in order, (N, K); lower is better."""
    trainee.eval()
    return torch.cat([trainee.scores(batch) for batch in batches]).cpu()


@torch.no_grad()
def finish(trainee: Trainee, batches: Iterator[Batch]) -> SPIPS:
    """Return a copy of the trainee's model that needs no scales, and orders images as it did.

    The scales go into the streams' weights. Streams and fusion are then rescaled in two ways. Every
    stream gets the score's mean over the training images, so a fusion weight is the stream's share
    of the score. And 95 % of those images score below 1. The trunk of the copy is frozen.
    """
    trainee.eval()
    model = copy.deepcopy(trainee.model)  # the trainee can be finished again
    means = [trainee.stream_means(batch) for batch in batches]
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
        for index, conv in enumerate(convs_of(model.streams[name])):
            scale = trainee.get_buffer(_scale_name(name, index)).view(1, -1, 1, 1)
            conv.weight.copy_(conv.weight / scale * factors[name])
    model.requires_grad_(True).trunk.requires_grad_(False)
    return model.eval()
