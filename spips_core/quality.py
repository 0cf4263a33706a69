"""The quality maps Q of Eqs. (1)-(8): their means for scores, the maps themselves for heat maps.

A score needs only means. A stream is a weighted sum of quality maps, and its ReLU cuts nothing,
because weights and maps are >= 0. So the mean of the stream's map, Eqs. (9)-(12), is the same
weighted sum of the maps' means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from spips_core.encoding import Encoding
from spips_core.quality_maps.ms_ssim import combine_scales, ms_ssim_map
from spips_core.quality_maps.psnr import decibels, psnr_map
from spips_core.quality_maps.ssim import structure_loss, window_moments
from spips_core.trunk import Backbone

if TYPE_CHECKING:
    from spips_core.kernels import Kernels

TRADITION_CHANNELS = 3 + 3 + 5  # PSNR and SSIM per colour, MS-SSIM per scale
NUM_SEMANTIC_TAPS = 2  # Eq. (8): the last two
Tap = TypeVar("Tap")


def num_channels(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return the number of channels of each tensor of Q, by stream."""
    deep = _split_taps(list(backbone.channels))
    return {"tradition": (TRADITION_CHANNELS,), **{name: tuple(n) for name, n in deep.items()}}


@dataclass(frozen=True)
class TraditionMeans:
    """The means of the traditional maps of N pairs, and the classic metrics.

    Attributes:
        quality: (N, 11), means of Q_psnr and Q_ssim per colour, of Q_msssim per scale.
        psnr_db: (N,) in decibels, +inf for identical images.
        ssim: (N,) in [-1, 1].
        ms_ssim: (N,) in [0, 1].
    """

    quality: Tensor
    psnr_db: Tensor
    ssim: Tensor
    ms_ssim: Tensor


def quality_means(
    reference: Encoding, distorted: Encoding, kernels: "Kernels"
) -> tuple[dict[str, list[Tensor]], TraditionMeans]:
    """Return the means of Q by stream, and the classic metrics.

    Args:
        reference: N undistorted images.
        distorted: the same N scenes, of the same size.
        kernels: eager or compiled.

    Returns:
        By stream, tensors (N, C_l) >= 0; and the traditional stream's means with the metrics.
    """
    tradition = tradition_means(reference.pyramid, distorted.pyramid, kernels)
    taps = feature_means(reference.features, distorted.features)
    return {"tradition": [tradition.quality], **_split_taps(taps)}, tradition


def quality_maps(reference: Encoding, distorted: Encoding) -> dict[str, list[Tensor]]:
    """Return Q by stream, for heat maps.

    Args:
        reference: N undistorted images.
        distorted: the same N scenes, of the same size.

    Returns:
        One tensor (N, 11, H, W) for Eqs. (1)-(3), tensors (N, C_l, H_l, W_l) for Eqs. (7) and (8).
    """
    moments = list(map(window_moments, reference.pyramid, distorted.pyramid))
    losses = [structure_loss(of_scale) for of_scale in moments]
    maps = psnr_map(moments[0]), losses[0].quality_map, ms_ssim_map(losses)
    taps = zip(reference.features, distorted.features, strict=True)
    squares = [(of_d - of_r).square() for of_r, of_d in taps]  # Eq. (6)
    return {"tradition": [torch.cat(maps, dim=1)], **_split_taps(squares)}


def _split_taps(taps: list[Tap]) -> dict[str, list[Tap]]:
    """Return the taps of the percept stream, Eq. (7), and of the semantic one, Eq. (8)."""
    return {"percept": taps[:-NUM_SEMANTIC_TAPS], "semantic": taps[-NUM_SEMANTIC_TAPS:]}


def tradition_means(
    references: Sequence[Tensor], distorted: Sequence[Tensor], kernels: "Kernels"
) -> TraditionMeans:
    """Return the means of the traditional maps, Eqs. (1)-(3), each at its scale's own size.

    Args:
        references: the undistorted images' pyramid, as `image_pyramid` makes it.
        distorted: the same scenes' pyramid.
        kernels: eager or compiled.
    """
    # As planes, at least three: torch.compile would make special code for a size of one.
    scales = [
        (r.flatten(0, 1), d.flatten(0, 1)) for r, d in zip(references, distorted, strict=True)
    ]
    colours = (len(references[0]), 3)
    *finest, q_psnr, squared_error = kernels.finest_means(*scales[0]).view(4, *colours)
    coarser = [kernels.structure_means(*planes).view(2, *colours) for planes in scales[1:]]
    structure = torch.stack([torch.stack(finest), *coarser])
    q_ssim, contrast_loss = structure.view(len(scales), 2, *colours).unbind(dim=1)  # (5, N, 3) each
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
