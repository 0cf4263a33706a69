"""Structural similarity: the map of Eq. (2), and the two factors that MS-SSIM shares with it.

Eqs. (1)-(3) are all computed from the same means and variances of a sliding window.
"""

from typing import NamedTuple

from torch import Tensor

from spips_core.checks import WINDOW_SIZE
from spips_core.image_ops import gaussian_blur

BORDER_PX = WINDOW_SIZE // 2


class WindowMoments(NamedTuple):
    """Means and variances under a window around every pixel, of a pair r, d and e = r - d.

    Attributes:
        mean_error: (..., H, W), mu_e.
        error_variance: (..., H, W), s_e^2 >= 0.
        mean_energy: (..., H, W), mu_r^2 + mu_d^2.
        energy_variance: (..., H, W), s_r^2 + s_d^2.
    """

    mean_error: Tensor
    error_variance: Tensor
    mean_energy: Tensor
    energy_variance: Tensor


def window_moments(reference: Tensor, distorted: Tensor) -> WindowMoments:
    """Return the moments of an 11 x 11 Gaussian window with a standard deviation of 1.5 px.

    Written for the difference e = r - d, which needs one window fewer than r and d apart.
    Differs from Wang et al. 2004: borders are reflected, so the moments keep H and W, and images
    are not downsampled first.

    Args:
        reference: (..., H + 2 BORDER_PX, W + 2 BORDER_PX), undistorted, values in [0, 1], with
            reflected borders.
        distorted: the same shape and scene, with reflected borders.

    Returns:
        Four tensors (..., H, W).
    """
    # Sigma is a literal here: the compiler would treat module constants as inputs.
    difference = reference - distorted
    energy = reference.square() + distorted.square()
    mu_r, mu_e, mean_energy, mean_e2 = (
        gaussian_blur(images, WINDOW_SIZE, sigma=1.5)
        for images in (reference, difference, energy, difference.square())
    )
    mu_d = mu_r - mu_e
    mu_energy = mu_r.square() + mu_d.square()
    # Rounding can leave a variance a few 1e-8 below zero; Q must not be negative.
    variance = (mean_e2 - mu_e.square()).clamp(min=0)
    return WindowMoments(mu_e, variance, mu_energy, mean_energy - mu_energy)


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


def structure_loss(moments: WindowMoments) -> StructureLoss:
    """Return one minus each factor of SSIM, l and cs, for every pixel and channel.

    Wang et al. 2004, Eq. (13), K1 = 0.01, K2 = 0.03, L = 1:
        l  = (2 mu_r mu_d + C1) / (mu_r^2 + mu_d^2 + C1)
        cs = (2 s_rd + C2) / (s_r^2 + s_d^2 + C2)
    Written for the difference e = r - d, so that both losses are exactly 0 for identical images:
        1 - l  = mu_e^2 / (mu_r^2 + mu_d^2 + C1)
        1 - cs = s_e^2 / (s_r^2 + s_d^2 + C2)

    Args:
        moments: of the pair, as `window_moments` returns them.

    Returns:
        Two maps (..., H, W); 0 means identical, lower is better.
    """
    luminance = moments.mean_error.square() / (moments.mean_energy + 0.01**2)
    return StructureLoss(luminance, moments.error_variance / (moments.energy_variance + 0.03**2))
