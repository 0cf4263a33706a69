"""Checks of image batches, made once where images enter spips_core."""

import torch
from torch import Tensor

from spips_core.errors import ImageError

NUM_SCALES = 5
WINDOW_SIZE = 11
# Reflection needs half a window on each side, at the coarsest of five scales too.
MIN_SIDE_PX = (WINDOW_SIZE // 2 + 1) * 2 ** (NUM_SCALES - 1)


def check_images(name: str, images: Tensor) -> None:
    """Raise ImageError unless images are (N, 3, H, W), uint8 or float, and sides long enough."""
    if not isinstance(images, Tensor):
        raise ImageError(f"{name}: expected a torch tensor, got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ImageError(f"{name}: expected shape (N, 3, H, W), got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ImageError(f"{name}: expected uint8 or floating point, got {images.dtype}")
    height_px, width_px = images.shape[-2:]
    if min(height_px, width_px) < MIN_SIDE_PX:
        raise ImageError(
            f"{name}: expected sides of at least {MIN_SIDE_PX} px, "
            f"got {height_px} x {width_px} (H x W)"
        )


def check_pair(reference: Tensor, distorted: Tensor) -> None:
    """Raise ImageError unless both pass `check_images` and have the same shape."""
    check_images("reference", reference)
    check_images("distorted", distorted)
    if reference.shape != distorted.shape:
        raise ImageError(
            "expected reference and distorted of one shape, "
            f"got {tuple(reference.shape)} and {tuple(distorted.shape)}"
        )


def check_range(**batches: Tensor) -> None:
    """Raise ImageError if floating-point images leave [0, 1], or hold NaN."""
    for name, images in batches.items():
        if images.is_floating_point() and images.numel() > 0:
            low, high = (value.item() for value in torch.aminmax(images))
            if not (low >= 0 and high <= 1):  # NaN is neither
                raise ImageError(f"{name}: expected floats in [0, 1], got {low:g} to {high:g}")
