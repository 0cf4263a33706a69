"""The means of the quality maps Q. A score needs nothing else, so no map is kept.

A stream is a weighted sum of quality maps, and its ReLU cuts nothing, because weights and maps are
>= 0. So the mean of the stream's map, Eqs. (9)-(12), is the same weighted sum of the maps' means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spips_core.quality_maps.ms_ssim import combine_scales
from spips_core.quality_maps.psnr import decibels
from spips_core.quality_maps.ssim import BORDER_PX

if TYPE_CHECKING:
    from spips_core.kernels import Kernels


@dataclass(frozen=True)
class TraditionMeans:
    """The means of the traditional maps of N pairs, and the classic metrics.

    Attributes:
        quality: (N, 11), means of Q_psnr and Q_ssim per color, of Q_msssim per scale.
        psnr_db: (N,) in decibels, +inf for identical images.
        ssim: (N,) in [-1, 1].
        ms_ssim: (N,) in [0, 1].
    """

    quality: Tensor
    psnr_db: Tensor
    ssim: Tensor
    ms_ssim: Tensor


def tradition_means(
    references: Sequence[Tensor], distorted: Sequence[Tensor], kernels: "Kernels"
) -> TraditionMeans:
    """Return the means of the traditional maps, Eqs. (1)-(3), each at its scale's own size.

    Args:
        references: the undistorted images' pyramid, as `image_pyramid` makes it.
        distorted: the same scenes' pyramid.
        kernels: eager or compiled.
    """
    # Planes, at least three of them: the compiler would specialise code for a single one.
    scales = [
        (r.flatten(0, 1), d.flatten(0, 1)) for r, d in zip(references, distorted, strict=True)
    ]
    inside = (..., slice(BORDER_PX, -BORDER_PX), slice(BORDER_PX, -BORDER_PX))
    colors = (len(references[0]), 3)
    errors = kernels.error_means(*(planes[inside] for planes in scales[0]))
    q_psnr, squared_error = errors.view(2, *colors)
    structure = torch.stack([kernels.structure_means(*planes) for planes in scales])
    q_ssim, contrast_loss = structure.view(len(scales), 2, *colors).unbind(dim=1)  # (5, N, 3) each
    q_ms_ssim = torch.cat([contrast_loss[:-1] / 2, q_ssim[-1:]]).mean(dim=2).T
    return TraditionMeans(
        quality=torch.cat([q_psnr, q_ssim[0], q_ms_ssim], dim=1),
        psnr_db=decibels(squared_error.mean(dim=1)),
        ssim=1 - 2 * q_ssim[0].mean(dim=1),
        ms_ssim=combine_scales(torch.cat([1 - contrast_loss[:-1], 1 - 2 * q_ssim[-1:]])),
    )


def feature_means(references: Sequence[Tensor], distorted: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of Q_CNN, Eq. (6): squared differences of the features.

    Args:
        references: L tensors (N, C_l, H_l, W_l), features of the undistorted images.
        distorted: L tensors of the same shapes, of the same scenes.

    Returns:
        L tensors (N, C_l) >= 0.
    """
    return [
        (other - reference).square().mean(dim=(2, 3))
        for reference, other in zip(references, distorted, strict=True)
    ]
