"""Multi-scale structural similarity: the map of Eq. (3) and the classic figure."""

import torch
from torch import Tensor

from spips_core.checks import NUM_SCALES
from spips_core.image_ops import enlarge, halve
from spips_core.quality_maps.ssim import StructureLoss, structure_loss

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def structure_pyramid(reference: Tensor, distorted: Tensor) -> list[StructureLoss]:
    """Return the SSIM terms at five scales, each half the size of the one before.

    Args:
        reference: (N, 3, H, W), undistorted, values in [0, 1], sides of at least MIN_SIDE_PX.
        distorted: (N, 3, H, W), the same scene, values in [0, 1].

    Returns:
        Five pairs of maps, finest first; the first is plain SSIM's.
    """
    scales = zip(halvings(reference), halvings(distorted), strict=True)
    return [structure_loss(*pair) for pair in scales]


def halvings(images: Tensor) -> list[Tensor]:
    """Return the images at five scales, each half the size of the one before, finest first.

    Args:
        images: (N, C, H, W), sides of at least MIN_SIDE_PX.
    """
    scales = [images]
    while len(scales) < NUM_SCALES:
        scales.append(halve(scales[-1]))
    return scales


def ms_ssim_map(pyramid: list[StructureLoss]) -> Tensor:
    """Return Q_msssim: contrast-structure at scales 1-4, full SSIM at scale 5, mean over RGB.

    Eq. (3): Q_msssim = 1 - (S_MS + 1) / 2, one channel a scale, each enlarged to H x W.
    Differs from Wang et al. 2003: the scales stay separate maps and are not multiplied.

    Args:
        pyramid: five scales, as `structure_pyramid` returns them.

    Returns:
        (N, 5, H, W) in [0, 1]; 0 means identical, lower is better.
    """
    height_px, width_px = pyramid[0].contrast.shape[-2:]
    maps = [scale.contrast / 2 for scale in pyramid[:-1]] + [pyramid[-1].quality_map]
    means = [enlarge(map_.mean(dim=1, keepdim=True), height_px, width_px) for map_ in maps]
    return torch.cat(means, dim=1)


def ms_ssim(pyramid: list[StructureLoss]) -> Tensor:
    """Return the multi-scale structural similarity of every pair.

    Wang et al. 2003, Eq. (7), with its five exponents, taken for each channel of RGB, then
    averaged. A negative mean at a scale counts as 0, as its power is not real.
    Differs from the paper: borders are reflected at every scale.

    Args:
        pyramid: five scales, as `structure_pyramid` returns them.

    Returns:
        (N,) in [0, 1]; 1 means identical, higher is better.
    """
    factors = [1 - scale.contrast.mean(dim=(2, 3)) for scale in pyramid[:-1]]
    return combine_scales(torch.stack([*factors, pyramid[-1].ssim_map.mean(dim=(2, 3))]))


def combine_scales(factors: Tensor) -> Tensor:
    """Return the product of every scale's factor, raised to its exponent; the mean over RGB.

    Args:
        factors: (5, N, 3), finest scale first: means of contrast-structure, then of SSIM.

    Returns:
        (N,) in [0, 1].
    """
    # In double precision: a float32 power's last bit depends on how many a CPU takes together.
    bases = factors.double().clamp(min=0)
    powers = [base**weight for base, weight in zip(bases, WEIGHTS, strict=True)]
    return torch.stack(powers).prod(dim=0).mean(dim=1).to(factors.dtype)
