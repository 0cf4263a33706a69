"""Peak signal-to-noise ratio: the map of Eq. (1) and the classic figure."""

import math

import torch
from torch import Tensor


def psnr_map(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return Q_psnr, the peak signal-to-noise ratio of every pixel and channel, turned and scaled.

    Eq. (1): Q_psnr = 1 - N(P), with P = -20 log10 |d| of the difference d and
    N(P) = clip(P / (20 log10 255), 0, 1), which is Q_psnr = ln(clip(255 |d|, 1, 255)) / ln 255.
    The paper leaves N open. One 8-bit step is the smallest real difference, so Q is 0 up to
    there, and 1 at full swing, whatever the content.

    Args:
        reference: (N, 3, H, W), undistorted, values in [0, 1].
        distorted: (N, 3, H, W), the same scene, values in [0, 1].

    Returns:
        (N, 3, H, W) in [0, 1]; 0 means no visible difference, lower is better.
    """
    steps = (255 * (reference - distorted).abs()).clamp(1, 255)
    return steps.log() / math.log(255)


def psnr_db(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of every pair.

    PSNR = -10 log10(MSE), peak 1, the mean taken over the three channels of RGB together.

    Args:
        reference: (N, 3, H, W), undistorted, values in [0, 1].
        distorted: (N, 3, H, W), the same scene, values in [0, 1].

    Returns:
        (N,) in decibels; +inf for identical images, higher is better.
    """
    return decibels((reference - distorted).square().mean(dim=(1, 2, 3)))


def decibels(mean_squared_error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio, peak 1; +inf where the error is 0.

    Args:
        mean_squared_error: any shape, >= 0.
    """
    # In double precision: a float32 one's last bit may depend on how many a CPU takes together.
    return (10 * torch.log10(1 / mean_squared_error.double())).to(mean_squared_error.dtype)
