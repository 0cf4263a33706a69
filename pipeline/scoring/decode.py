"""Decode a pair's images, and bring both to the size at which they are scored."""

import numpy as np
from PIL import Image

from pipeline.runs.errors import RowError
from pipeline.runs.schema import Status
from pipeline.scoring.config import ImagesConfig
from spips_core import decode
from spips_core.errors import TooManyPixelsError, UndecodableImageError


def decode_image(content: bytes, images: ImagesConfig) -> Image.Image:
    """Decode an image file to 8-bit RGB, as `spips_core.decode.decode_image` does.

    Raises:
        RowError: too_large, known from the header; or decode_error.
    """
    try:
        convert = images.colour_profiles == "convert"
        return decode.decode_image(content, images.max_pixels, convert_colours=convert)
    except TooManyPixelsError as error:
        setting = str(error).replace("(max_pixels)", "(images.max_pixels)")
        raise RowError(Status.TOO_LARGE, setting) from error
    except UndecodableImageError as error:
        raise RowError(Status.DECODE_ERROR, str(error)) from error


def fit_pair(
    reference: Image.Image, distorted: Image.Image, images: ImagesConfig
) -> tuple[Image.Image, Image.Image]:
    """Bring a decoded pair to the size at which it is scored.

    Raises:
        RowError: size_mismatch, too_large or too_small.
    """
    if reference.size != distorted.size and images.size_mismatch != "resize":
        reference, distorted = _cropped(reference, distorted, images)
    size = reference.size
    if images.resize is not None:
        scale = images.resize / min(size)
        size = (
            max(round(size[0] * scale), images.resize),
            max(round(size[1] * scale), images.resize),
        )
    if min(size) < images.min_side_px:
        raise RowError(
            Status.TOO_SMALL,
            f"expected sides of at least {images.min_side_px} px (images.min_side_px), "
            f"got {size[1]} x {size[0]} (H x W)",
        )
    if size[0] * size[1] > images.max_pixels:
        raise RowError(
            Status.TOO_LARGE,
            f"expected at most {images.max_pixels} pixels (images.max_pixels) after resizing, "
            f"got {size[1]} x {size[0]} (H x W)",
        )
    return _resized(reference, size), _resized(distorted, size)


def _cropped(
    reference: Image.Image, distorted: Image.Image, images: ImagesConfig
) -> tuple[Image.Image, Image.Image]:
    """Return the centres of two images of nearly the same size, as large as both allow."""
    width, height = np.minimum(reference.size, distorted.size).tolist()
    most = images.max_crop_px if images.size_mismatch == "crop" else 0
    if np.abs(np.subtract(reference.size, distorted.size)).max() > most:
        within = f" within {most} px (images.max_crop_px)" if most else ""
        raise RowError(
            Status.SIZE_MISMATCH,
            f"expected the reference's {reference.height} x {reference.width} (H x W){within}, "
            f"got {distorted.height} x {distorted.width}",
        )
    corners = [((i.width - width) // 2, (i.height - height) // 2) for i in (reference, distorted)]
    boxes = [(left, top, left + width, top + height) for left, top in corners]
    return reference.crop(boxes[0]), distorted.crop(boxes[1])


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
