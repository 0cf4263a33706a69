import re

import pytest
import torch

from spips_core import ImageError
from spips_core.checks import check_pair, check_range

IMAGES = torch.zeros(2, 3, 96, 128)


def wrong_pairs():
    wide, long = torch.zeros(2, 3, 96, 129), IMAGES.long()
    last = torch.zeros(2, 96, 128, 3)
    shape, kind = "expected shape (N, 3, H, W), got", "expected uint8 or floating point, got"
    return {
        "no batch": (IMAGES[0], IMAGES[0], f"reference: {shape} (3, 96, 128)"),
        "one channel": (IMAGES[:, :1], IMAGES[:, :1], f"reference: {shape} (2, 1, 96, 128)"),
        "alpha": (IMAGES, torch.zeros(2, 4, 96, 128), f"distorted: {shape} (2, 4, 96, 128)"),
        "channels at the end": (IMAGES, last, f"distorted: {shape} (2, 96, 128, 3)"),
        "sizes": (IMAGES, wide, "of one shape, got (2, 3, 96, 128) and (2, 3, 96, 129)"),
        "counts": (IMAGES, IMAGES[:1], "of one shape, got (2, 3, 96, 128) and (1, 3, 96, 128)"),
        "int64": (IMAGES, long, f"distorted: {kind} torch.int64"),
        "bool": (IMAGES.bool(), IMAGES, f"reference: {kind} torch.bool"),
        "low": (wide[:, :, 1:], wide[:, :, 1:], "at least 96 px, got 95 x 129 (H x W)"),
        "narrow": (wide[..., :95], wide[..., :95], "at least 96 px, got 96 x 95 (H x W)"),
    }


@pytest.mark.parametrize("name", wrong_pairs())
def test_wrong_pair_is_refused_with_expected_and_got(name):
    reference, distorted, message = wrong_pairs()[name]
    with pytest.raises(ImageError, match=re.escape(message)):
        check_pair(reference, distorted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_smallest_pair_passes_in_every_image_type(dtype):
    images = torch.zeros(1, 3, 96, 96, dtype=dtype)
    check_pair(images, images.float())


@pytest.mark.parametrize(
    ("low", "high", "got"),
    [
        (-1, 1, "-1 to 1"),
        (0, 255, "0 to 255"),
        (0, 1.001, "0 to 1.001"),
        (-0.001, 1, "-0.001 to 1"),
    ],
)
def test_floats_outside_0_to_1_are_refused_with_their_range(low, high, got):
    images = torch.linspace(low, high, IMAGES.numel()).view(IMAGES.shape)
    with pytest.raises(ImageError, match=rf"distorted: expected floats in \[0, 1\], got {got}$"):
        check_range(distorted=images)


def test_infinite_values_are_refused():
    images = IMAGES.clone()
    images[1, 2, 3, 4] = torch.inf
    with pytest.raises(ImageError, match="got 0 to inf"):
        check_range(reference=images)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ImageError, match="got nan to nan"):
        check_range(reference=images)


@pytest.mark.parametrize(
    "images",
    [
        torch.linspace(0, 1, 12).view(1, 3, 2, 2),
        torch.full((1, 3, 2, 2), 255, dtype=torch.uint8),
        torch.zeros(0, 3, 96, 96),
    ],
    ids=["floats", "uint8", "no images"],
)
def test_images_in_range_pass(images):
    check_range(reference=images)
