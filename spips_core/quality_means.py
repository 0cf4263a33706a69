"""The means of the quality maps, which are all that a score needs; no map is kept.

A stream is linear as long as its ReLU cuts nothing, which weights >= 0 on maps >= 0 ensure. So the
mean of F in Eqs. (9)-(11) is the stream of the maps' means. The passes over pixels are functions of
their own, so that a compiler can fuse each into one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Self

import torch
from torch import Tensor

from spips_core.image_ops import enlarge
from spips_core.quality_maps.ms_ssim import combine_scales
from spips_core.quality_maps.psnr import decibels, psnr_map
from spips_core.quality_maps.ssim import BORDER_PX, bordered_structure_loss


@dataclass(frozen=True)
class TraditionMeans:
    """What the traditional maps of N pairs come to.

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


def error_means(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return the means of Q_psnr and of the squared error.

    Args:
        reference: (P, H, W), colour planes of undistorted images, values in [0, 1].
        distorted: (P, H, W), the same scenes.

    Returns:
        (2, P).
    """
    maps = psnr_map(reference, distorted), (reference - distorted).square()
    return torch.stack([map_.mean(dim=-1).mean(dim=-1) for map_ in maps])


def structure_means(
    reference: Tensor, distorted: Tensor, row_weights: Tensor, column_weights: Tensor
) -> Tensor:
    """Return the means of Q_ssim and of 1 - cs, plain and weighted.

    Args:
        reference: (P, H + 2 BORDER_PX, W + 2 BORDER_PX), planes with reflected borders.
        distorted: of the same shape, the same scenes.
        row_weights: (H,), sum 1.
        column_weights: (W,), sum 1.

    Returns:
        (4, P): both plain, then both weighted.
    """
    loss = bordered_structure_loss(reference, distorted)
    maps = loss.quality_map, loss.contrast
    plain = [map_.mean(dim=-1).mean(dim=-1) for map_ in maps]
    weighted = [((map_ * column_weights).sum(dim=-1) * row_weights).sum(dim=-1) for map_ in maps]
    return torch.stack([*plain, *weighted])


@dataclass(frozen=True)
class Passes:
    """The passes over pixels: as they stand, or compiled into one loop each."""

    error_means: Callable[[Tensor, Tensor], Tensor]
    structure_means: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    @classmethod
    def eager(cls) -> Self:
        """Return the passes as they stand."""
        return cls(partial(_by_pair, error_means), partial(_by_pair, structure_means))

    @classmethod
    def compiled(cls) -> Self:
        """Return the same passes, to be compiled when they are first called, for every size."""
        return cls(_compiled(error_means), _compiled(structure_means))


def _by_pair(
    means: Callable[..., Tensor], reference: Tensor, distorted: Tensor, *others: Tensor
) -> Tensor:
    """Return a pass's result, on a CPU taken pair by pair: more would leave its cache."""
    if not reference.is_cpu:
        return means(reference, distorted, *others)
    pairs = zip(torch.split(reference, 3), torch.split(distorted, 3), strict=True)
    return torch.cat([means(*pair, *others) for pair in pairs], dim=-1)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(
        function,
        dynamic=True,
        fullgraph=True,
        # A sum of products then rounds once for both, as on GPUs: a quarter less time.
        options={"cpp.enable_floating_point_contract_flag": "fast"},
    )


def tradition_means(
    references: Sequence[Tensor], distorted: Sequence[Tensor], passes: Passes
) -> TraditionMeans:
    """Return the means of the traditional maps and the classic metrics.

    Args:
        references: the undistorted images at five scales, finest first, each half the size of the
            one before: (N, 3, H + 2 BORDER_PX, W + 2 BORDER_PX) in [0, 1], with reflected borders.
        distorted: likewise, the same scenes.
        passes: what runs over the pixels.
    """
    # Planes, of which there are never one: a compiler would make code of its own for that.
    scales = [
        (r.flatten(0, 1), d.flatten(0, 1)) for r, d in zip(references, distorted, strict=True)
    ]
    inside = (..., slice(BORDER_PX, -BORDER_PX), slice(BORDER_PX, -BORDER_PX))
    reference, other = (planes[inside] for planes in scales[0])
    size_px = reference.shape[-2:]
    colours = (len(references[0]), 3)
    q_psnr, squared_error = passes.error_means(reference, other).view(2, *colours)
    means = []
    for reference, other in scales:
        height_px, width_px = (side_px - 2 * BORDER_PX for side_px in reference.shape[-2:])
        weights = _axis_weights((height_px, width_px), size_px, other.dtype, other.device)
        means.append(passes.structure_means(reference, other, *weights))
    # Each (5, 2, N, 3): scales; Q_ssim and 1 - cs.
    plain, enlarged = torch.stack(means).view(len(scales), 2, 2, *colours).unbind(dim=1)
    q_ssim = plain[0, 0]
    q_ms_ssim = torch.cat([enlarged[:-1, 1] / 2, enlarged[-1:, 0]])
    factors = torch.cat([1 - plain[:-1, 1], 1 - 2 * plain[-1:, 0]])
    return TraditionMeans(
        quality=torch.cat([q_psnr, q_ssim, q_ms_ssim.mean(dim=2).T], dim=1),
        psnr_db=decibels(squared_error.mean(dim=1)),
        ssim=1 - 2 * q_ssim.mean(dim=1),
        ms_ssim=combine_scales(factors),
    )


@lru_cache(maxsize=4096)  # five for each size of images, some kilobytes each
def _axis_weights(
    size_px: tuple[int, int], full_size_px: tuple[int, int], dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return `enlarged_mean_weights` of both axes, as two tensors even where they are alike.

    One tensor given for both would be a case of its own to the compiler.
    """
    rows, columns = (
        enlarged_mean_weights(side_px, full_px, dtype, device)
        for side_px, full_px in zip(size_px, full_size_px, strict=True)
    )
    return rows, columns


def enlarged_mean_weights(
    side_px: int, full_px: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return how much each pixel along one side counts in the mean of the enlarged map.

    Args:
        side_px: side of a map.
        full_px: side to which `enlarge` brings it.
        dtype: of the result.
        device: of the result.

    Returns:
        (side_px,), sum 1; all equal when one side is a multiple of the other.
    """
    # Kept by their caller, so made alike whoever asks first.
    with torch.inference_mode(False), torch.enable_grad():
        if full_px % side_px == 0:
            return torch.full((side_px,), 1 / side_px, dtype=dtype, device=device)
        # Enlarging is linear: how much a pixel counts in the mean is the mean's slope in it.
        side = torch.zeros(1, 1, side_px, 1, dtype=torch.float64, requires_grad=True)
        (weights,) = torch.autograd.grad(enlarge(side, full_px, 1).mean(), side)
        return weights.flatten().to(device, dtype)


def feature_means(references: Sequence[Tensor], distorted: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of Q_CNN, Eq. (6): squared differences of the features.

    Args:
        references: L tensors (N, C_l, H_l, W_l), features of the undistorted images.
        distorted: likewise, of the same scenes.

    Returns:
        L tensors (N, C_l) >= 0.
    """
    return [
        (other - reference).square_().mean(dim=(2, 3))
        for reference, other in zip(references, distorted, strict=True)
    ]
