"""Operations on image batches that the quality maps share."""

import torch
from torch import Tensor
from torch.nn import functional


def to_unit_range(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the images as floating point: uint8 is divided by 255, floats keep their values.

    Args:
        images: (N, C, H, W), uint8 in [0, 255] or floating point in [0, 1].
        dtype: of the result.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


def gaussian_blur(images: Tensor, window_size: int, sigma: float) -> Tensor:
    """Return the local means under a Gaussian window, borders reflected.

    The separable window is a sum of shifted copies along each axis: on a CPU that beats a
    depthwise convolution, and a compiler can fuse it.

    Args:
        images: (N, C, H, W), sides longer than half a window.
        window_size: side of the window in pixels, odd.
        sigma: standard deviation of the window in pixels.

    Returns:
        (N, C, H, W).
    """
    radius = window_size // 2
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    window = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0).tolist()
    height_px, width_px = images.shape[-2:]
    padded = functional.pad(images, (radius,) * 4, mode="reflect")
    rows = padded[..., :width_px] * window[0]
    for i in range(1, window_size):
        rows.add_(padded[..., i : i + width_px], alpha=window[i])
    blurred: Tensor = rows[..., :height_px, :] * window[0]
    for i in range(1, window_size):
        blurred.add_(rows[..., i : i + height_px, :], alpha=window[i])
    return blurred


def halve(images: Tensor) -> Tensor:
    """Return the images at half size: means of 2 x 2 pixels, an odd last row or column dropped.

    Args:
        images: (N, C, H, W).

    Returns:
        (N, C, H // 2, W // 2).
    """
    return functional.avg_pool2d(images, kernel_size=2)


def enlarge(maps: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return the maps at the size of the images, interpolated bilinearly.

    Args:
        maps: (N, C, h, w).
        height_px: height of the result in pixels.
        width_px: width of the result in pixels.

    Returns:
        (N, C, height_px, width_px).
    """
    if maps.shape[-2:] == (height_px, width_px):
        return maps
    return functional.interpolate(
        maps, size=(height_px, width_px), mode="bilinear", align_corners=False
    )


def unit_length(features: Tensor) -> Tensor:
    """Return the features with the vector at each position scaled to length one.

    A small term stands inside the root, so that vectors of zeros stay zeros and gradients finite.

    Args:
        features: (N, C, H, W).

    Returns:
        (N, C, H, W), each vector along C of length one, or zero.
    """
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()
