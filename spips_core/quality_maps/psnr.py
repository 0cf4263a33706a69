"""Peak signal-to-noise ratio: the map of Eq. (1) and the classic figure."""

import torch
from torch import Tensor

from spips_core.quality_maps.ssim import WindowMoments


def psnr_map(moments: WindowMoments) -> Tensor:
    """Return Q_psnr, the inverted and scaled peak signal-to-noise ratio around every pixel.

    Eq. (1): Q_psnr = 1 - N(P). The paper leaves N open. Here the squared error under a window is
    E = s_e^2 + 0.02 mu_e^2, so that a uniform shift, to which eyes adapt, counts 2 % of a pattern
    of the same strength. With P = -10 log10 E, N compares E with the contrast that masks it,
    A = (s_r^2 + s_d^2) / 2 + 0.1^2: Q_psnr = E / (E + A), which is N(P) = A / (10^(-P / 10) + A).

    Args:
        moments: of the pair, as `window_moments` returns them.

    Returns:
        (..., H, W) in [0, 1); 0 means identical, lower is better.
    """
    # Literals: the compiler would treat module constants as inputs.
    error = moments.error_variance + 0.02 * moments.mean_error.square()
    return error / (error + moments.energy_variance / 2 + 0.1**2)


def decibels(mean_squared_error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio: -10 log10(MSE), peak 1.

    Args:
        mean_squared_error: any shape, >= 0.

    Returns:
        The same shape, in decibels; +inf where the error is 0.
    """
    # In double precision: the last bit of a float32 logarithm may depend on the batch size.
    return (10 * torch.log10(1 / mean_squared_error.double())).to(mean_squared_error.dtype)
