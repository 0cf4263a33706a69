"""The streams of Eqs. (9)-(11): a convolution over quality maps, a ReLU, and a mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spips_core.image_ops import enlarge


class Stream(nn.Module):
    """One stream's convolutions C and ReLU R: F = R(C(Q)).

    The paper leaves the shapes open. Here each set of maps of one size has its own 1 x 1
    convolution to one channel, without bias, so that maps of zeros (identical images) give
    exactly 0 and F is never negative.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        """Make untrained convolutions: positive weights of mean 1 / channels.

        Args:
            channels: number of quality channels in each set of maps.
        """
        super().__init__()
        convs = [nn.Conv2d(num, 1, kernel_size=1, bias=False) for num in channels]
        for conv in convs:
            nn.init.uniform_(conv.weight, 0, 2 / conv.in_channels)
        self.convs = nn.ModuleList(convs)

    def forward(self, quality_maps: Sequence[Tensor]) -> list[Tensor]:
        """Return F of Eqs. (9)-(11).

        Args:
            quality_maps: the stream's Q, tensors (N, C_l, H_l, W_l) >= 0.

        Returns:
            As many tensors (N, 1, H_l, W_l) >= 0; lower is better.
        """
        return [torch.relu(conv(q)) for conv, q in zip(self.convs, quality_maps, strict=True)]


def stream_mean(features: Sequence[Tensor]) -> Tensor:
    """Return the mean of F for Eq. (12): over the pixels of each map, then over the maps.

    Args:
        features: tensors (N, 1, H_l, W_l).

    Returns:
        (N,).
    """
    return torch.stack([feature.mean(dim=(1, 2, 3)) for feature in features]).mean(dim=0)


def mean_of_means(stream: nn.Module, quality_means: Sequence[Tensor]) -> Tensor:
    """Return a stream's mean from the means of its Q alone: with weights >= 0, R cuts nothing.

    Sums of products, for a convolution over many pairs may round otherwise than over one.

    Args:
        stream: a `Stream` with weights >= 0.
        quality_means: the means of its Q, tensors (N, C_l) >= 0.

    Returns:
        (N,) >= 0; lower is better.
    """
    weights = stream.parameters()
    features = [
        torch.relu((q * weight.flatten()).sum(dim=1))
        for weight, q in zip(weights, quality_means, strict=True)
    ]
    return torch.stack(features).mean(dim=0)


def stream_map(features: Sequence[Tensor], height_px: int, width_px: int) -> Tensor:
    """Return one heat map of a stream: its maps enlarged to the images' size, then averaged.

    Args:
        features: tensors (N, 1, H_l, W_l).
        height_px: height of the images in pixels.
        width_px: width of the images in pixels.

    Returns:
        (N, H, W) >= 0; lower is better.
    """
    maps = [enlarge(feature, height_px, width_px) for feature in features]
    return torch.cat(maps, dim=1).mean(dim=1)
