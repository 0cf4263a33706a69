"""Operations on image batches that several modules share."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def to_unit_range(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the images as floating point. uint8 is divided by 255; floats keep their values.

    Returns:
        (N, C, H, W) in [0, 1], in the memory layout of the images.
    """
    return images.to(dtype).div_(255) if images.dtype == torch.uint8 else images.to(dtype)


def reflect_borders(images: Tensor, width_px: int) -> Tensor:
    """Return the images with mirrored borders. The outermost pixels are not repeated.

    Returns:
        (N, C, H + 2 width_px, W + 2 width_px).
    """
    return functional.pad(images, (width_px,) * 4, mode="reflect")


def gaussian_blur(images: Tensor, window_size: int, sigma: float) -> Tensor:
    """Return the local means under a Gaussian window, at every position where the window fits.

    The window is separable: a weighted sum of shifted copies along each axis. On a CPU this is
    faster than a depthwise convolution, and a compiler can fuse it. The caller adds borders,
    because padding in here would keep the compiler from vectorizing.

    Args:
        images: (..., H, W), sides at least as long as the window.
        window_size: side of the window in pixels, odd.
        sigma: standard deviation of the window in pixels.

    Returns:
        (..., H - window_size + 1, W - window_size + 1).
    """
    radius = window_size // 2
    window = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    window = [weight / sum(window) for weight in window]
    height_px, width_px = (side_px - 2 * radius for side_px in images.shape[-2:])
    rows = images[..., :width_px] * window[0]
    for i in range(1, window_size):
        rows.add_(images[..., i : i + width_px], alpha=window[i])
    blurred: Tensor = rows[..., :height_px, :] * window[0]
    for i in range(1, window_size):
        blurred.add_(rows[..., i : i + height_px, :], alpha=window[i])
    return blurred


def halve(images: Tensor) -> Tensor:
    """Return the images at half size: means of 2 x 2 pixels. An odd last row or column is dropped.

    Returns:
        (N, C, H // 2, W // 2).
    """
    height_px, width_px = (side_px // 2 * 2 for side_px in images.shape[-2:])
    top, bottom = images[..., 0:height_px:2, :width_px], images[..., 1:height_px:2, :width_px]
    rows = top + bottom  # three times as fast as avg_pool2d
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def enlarge(maps: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return the maps interpolated bilinearly to a larger size.

    Returns:
        (N, C, height_px, width_px).
    """
    if maps.shape[-2:] == (height_px, width_px):
        return maps
    return functional.interpolate(
        maps, size=(height_px, width_px), mode="bilinear", align_corners=False
    )


def unit_length(features: Tensor) -> Tensor:
    """Scale the feature vector at each position to length one.

    Lengths are clamped to at least 1e-5, so that zeros stay zeros and gradients stay finite.

    Returns:
        (N, C, H, W), each vector along C of length one; shorter where it was below 1e-5.
    """
    lengths: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / lengths.clamp_min(1e-5)
