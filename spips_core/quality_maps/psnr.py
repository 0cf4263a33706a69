"""Peak signal-to-noise ratio: the map of Eq. (1) and the classic figure."""

import math

import torch
from torch import Tensor


def psnr_map(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return Q_psnr, the inverted and scaled peak signal-to-noise ratio of every pixel and channel.

    Eq. (1): Q_psnr = 1 - N(P), with P = -20 log10 |d| of the difference d and
    N(P) = clip(P / (20 log10 255), 0, 1), which is Q_psnr = ln(clip(255 |d|, 1, 255)) / ln 255.
    The paper leaves N open. One 8-bit step is the smallest real difference, so Q is 0 up to
    one step and 1 at full swing. It does not depend on the rest of the image.

    Args:
        reference: any shape, undistorted, values in [0, 1].
        distorted: the same shape and scene, values in [0, 1].

    Returns:
        The same shape, in [0, 1]; 0 means no visible difference, lower is better.
    """
    steps = (255 * (reference - distorted).abs()).clamp(1, 255)
    return steps.log() / math.log(255)


def error_means(reference: Tensor, distorted: Tensor) -> Tensor:
    """Return the means of Q_psnr and of the squared error of every plane. A kernel.

    Args:
        reference: (P, H, W), color planes of undistorted images, values in [0, 1].
        distorted: (P, H, W), the same scenes.

    Returns:
        (2, P).
    """
    maps = psnr_map(reference, distorted), (reference - distorted).square()
    return torch.stack([map_.mean(dim=-1).mean(dim=-1) for map_ in maps])


def decibels(mean_squared_error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio: -10 log10(MSE), peak 1.

    Args:
        mean_squared_error: any shape, >= 0.

    Returns:
        The same shape, in decibels; +inf where the error is 0.
    """
    # In double precision: the last bit of a float32 logarithm may depend on the batch size.
    return (10 * torch.log10(1 / mean_squared_error.double())).to(mean_squared_error.dtype)
