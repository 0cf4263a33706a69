"""The streams of Eqs. (9)-(11): a convolution over quality maps, a ReLU, and a mean."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spips_core.image_ops import enlarge


class Stream(nn.Module):
    """One stream: the mean of F = R(C(Q)), with convolutions C and ReLU R.

    The paper leaves the shapes open. Here each set of maps of one size has its own 1 x 1
    convolution to one channel, without bias, so that identical images give exactly 0 and F is never
    negative. The weights are >= 0, so the mean of F follows from the means of Q.
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

    def forward(self, quality_means: Sequence[Tensor]) -> Tensor:
        """Return the stream's mean for Eq. (12): over each map's pixels, then over the maps.

        Args:
            quality_means: the means of the stream's Q, tensors (N, C_l) >= 0.

        Returns:
            (N,) >= 0; lower is better.
        """
        # Sums of products: a convolution may round differently in batches of different size.
        features = [
            torch.relu((q * weight.flatten()).sum(dim=1))
            for weight, q in zip(self.parameters(), quality_means, strict=True)
        ]
        return torch.stack(features).mean(dim=0)

    def maps(self, quality_maps: Sequence[Tensor]) -> list[Tensor]:
        """Return F of Eqs. (9)-(11), which only heat maps need.

        Args:
            quality_maps: the stream's Q, tensors (N, C_l, H_l, W_l) >= 0.

        Returns:
            As many tensors (N, 1, H_l, W_l) >= 0; lower is better.
        """
        return [torch.relu(conv(q)) for conv, q in zip(self.convs, quality_maps, strict=True)]


def stream_map(features: Sequence[Tensor], height_px: int, width_px: int) -> Tensor:
    """Return one heat map of a stream: its maps enlarged to the images' size, then averaged.

    Returns:
        (N, H, W) >= 0; lower is better.
    """
    maps = [enlarge(feature, height_px, width_px) for feature in features]
    return torch.cat(maps, dim=1).mean(dim=1)
