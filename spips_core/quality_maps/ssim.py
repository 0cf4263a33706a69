"""Structural similarity: the map of Eq. (2), and the two factors that MS-SSIM shares with it."""

from typing import NamedTuple

import torch
from torch import Tensor

from spips_core.checks import WINDOW_SIZE
from spips_core.image_ops import gaussian_blur

BORDER_PX = WINDOW_SIZE // 2


class StructureLoss(NamedTuple):
    """One minus each of SSIM's two factors, for every pixel and channel.

    Attributes:
        luminance: (..., H, W), 1 - l in [0, 1].
        contrast: (..., H, W), 1 - cs in [0, 2].
    """

    luminance: Tensor
    contrast: Tensor

    @property
    def ssim_map(self) -> Tensor:
        """(..., H, W) in [-1, 1]: l * cs, the SSIM of every pixel and channel."""
        return (1 - self.luminance) * (1 - self.contrast)

    @property
    def quality_map(self) -> Tensor:
        """(..., H, W) in [0, 1]: Q_ssim = 1 - (SSIM + 1) / 2, Eq. (2); 0 means identical."""
        return (self.luminance + self.contrast - self.luminance * self.contrast) / 2


def structure_loss(reference: Tensor, distorted: Tensor) -> StructureLoss:
    """Return one minus each factor of SSIM, l and cs, for every pixel and channel.

    Wang et al. 2004, Eq. (13), K1 = 0.01, K2 = 0.03, L = 1:
        l  = (2 mu_r mu_d + C1) / (mu_r^2 + mu_d^2 + C1)
        cs = (2 s_rd + C2) / (s_r^2 + s_d^2 + C2)
    Written for the difference e = r - d. Both losses are then exactly 0 for identical images, and
    one of the five windows is not needed:
        1 - l  = mu_e^2 / (mu_r^2 + mu_d^2 + C1)
        1 - cs = s_e^2 / (s_r^2 + s_d^2 + C2)
    Differs from the paper: borders are reflected, so the maps keep H and W; the window is
    11 x 11 with a standard deviation of 1.5 px, and images are not downsampled first.

    Args:
        reference: (..., H + 2 BORDER_PX, W + 2 BORDER_PX), undistorted, values in [0, 1], with
            reflected borders.
        distorted: the same shape and scene, with reflected borders.

    Returns:
        Two maps (..., H, W); 0 means identical, lower is better.
    """
    # Sigma, K1 and K2 are literals here: the compiler would treat module constants as inputs.
    difference = reference - distorted
    energy = reference.square() + distorted.square()
    mu_r, mu_e, mean_energy, mean_e2 = (
        gaussian_blur(images, WINDOW_SIZE, sigma=1.5)
        for images in (reference, difference, energy, difference.square())
    )
    mu_d = mu_r - mu_e
    mu_e2 = mu_e.square()
    mu_energy = mu_r.square() + mu_d.square()
    luminance = mu_e2 / (mu_energy + 0.01**2)
    contrast = (mean_e2 - mu_e2) / (mean_energy - mu_energy + 0.03**2)
    # Rounding can leave a variance a few 1e-8 below zero; Q must not be negative.
    return StructureLoss(luminance, contrast.clamp(min=0))


def structure_means(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return the means of Q_ssim and of 1 - cs of every plane. A kernel.

    Args:
        reference: (P, H + 2 BORDER_PX, W + 2 BORDER_PX), planes with reflected borders.
        distorted: the same shape and scenes.

    Returns:
        (2, P).
    """
    loss = structure_loss(reference, distorted)
    maps = loss.quality_map, loss.contrast
    return torch.stack([map_.mean(dim=-1).mean(dim=-1) for map_ in maps])
