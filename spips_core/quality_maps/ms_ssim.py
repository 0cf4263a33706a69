"""Multi-scale structural similarity: the map of Eq. (3) and the classic figure."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spips_core.checks import NUM_SCALES
from spips_core.image_ops import enlarge, halve, reflect_borders
from spips_core.quality_maps.ssim import BORDER_PX, StructureLoss

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def image_pyramid(images: Tensor) -> list[Tensor]:
    """Return the images at five scales with reflected borders, finest first.

    Each scale has half the size of the one before; an odd last row or column is dropped.

    Args:
        images: (N, C, H, W), sides of at least MIN_SIDE_PX.

    Returns:
        Tensors (N, C, H_s + 2 BORDER_PX, W_s + 2 BORDER_PX).
    """
    scales = [images]
    while len(scales) < NUM_SCALES:
        scales.append(halve(scales[-1]))
    return [reflect_borders(scale, BORDER_PX) for scale in scales]


def ms_ssim_map(pyramid: Sequence[StructureLoss]) -> Tensor:
    """Return Q_msssim: contrast-structure at scales 1-4, full SSIM at scale 5, mean over RGB.

    Eq. (3): Q_msssim = 1 - (S_MS + 1) / 2, one channel per scale, each enlarged to H x W.
    Differs from Wang et al. 2003: the scales stay separate maps and are not multiplied. The score
    takes each scale's mean at the scale's own size; only heat maps need this full-size map.

    Args:
        pyramid: the structure losses of five scales, finest first.

    Returns:
        (N, 5, H, W) in [0, 1]; 0 means identical, lower is better.
    """
    height_px, width_px = pyramid[0].contrast.shape[-2:]
    maps = [scale.contrast / 2 for scale in pyramid[:-1]] + [pyramid[-1].quality_map]
    means = [enlarge(map_.mean(dim=1, keepdim=True), height_px, width_px) for map_ in maps]
    return torch.cat(means, dim=1)


def combine_scales(factors: Tensor) -> Tensor:
    """Return MS-SSIM from the mean factor of each scale.

    Wang et al. 2003, Eq. (7), with its five exponents, for each channel of RGB, then averaged. A
    negative mean at a scale counts as 0, because its power is not real.
    Differs from the paper: borders are reflected at every scale.

    Args:
        factors: (5, N, 3), finest scale first: means of contrast-structure, last of SSIM.

    Returns:
        (N,) in [0, 1]; 1 means identical, higher is better.
    """
    # In double precision: the last bit of a float32 power depends on the batch size.
    bases = factors.double().clamp(min=0)
    powers = [base**weight for base, weight in zip(bases, WEIGHTS, strict=True)]
    return torch.stack(powers).prod(dim=0).mean(dim=1).to(factors.dtype)
