"""The kernels: means of the traditional maps of every plane, in one pass over the pixels."""

import torch
from torch import Tensor

from spips_core.quality_maps.psnr import psnr_map
from spips_core.quality_maps.ssim import BORDER_PX, structure_loss, window_moments


def finest_means(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return the means of Q_ssim, 1 - cs, Q_psnr and the squared error of every plane. A kernel.

    Args:
        reference: (P, H + 2 BORDER_PX, W + 2 BORDER_PX), planes with reflected borders.
        distorted: the same shape and scenes.

    Returns:
        (4, P).
    """
    moments = window_moments(reference, distorted)
    loss = structure_loss(moments)
    inside = (slice(None), *(slice(BORDER_PX, -BORDER_PX),) * 2)
    squared_error = (reference[inside] - distorted[inside]).square()
    return _means(loss.quality_map, loss.contrast, psnr_map(moments), squared_error)


def structure_means(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return the means of Q_ssim and of 1 - cs of every plane. A kernel.

    Args:
        reference: (P, H + 2 BORDER_PX, W + 2 BORDER_PX), planes with reflected borders.
        distorted: the same shape and scenes.

    Returns:
        (2, P).
    """
    loss = structure_loss(window_moments(reference, distorted))
    return _means(loss.quality_map, loss.contrast)


def _means(*maps: Tensor) -> Tensor:
    return torch.stack([map_.mean(dim=-1).mean(dim=-1) for map_ in maps])
