"""From encoded bytes to 8-bit RGB: which formats, which rules, which limits."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageFile, ImageOps, features

from pipeline.runs.errors import RowError
from pipeline.runs.schema import Status
from pipeline.scoring.config import ImagesConfig

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP") + (
    ("AVIF",) if features.check("avif") else ()
)
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files."""

TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 262, 0

# Pillow joins what tobytes() packs from pieces of this size, which copies it once more; the pixels
# of most images fit in one of four MiB. It also reads and writes files in such pieces.
ImageFile.MAXBLOCK = 1 << 22

# Pillow's own guard, a fixed number, would come before images.max_pixels, which is checked below
# from the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


def decode_image(content: bytes, max_pixels: int) -> Image.Image:
    """Return an encoded image as 8-bit RGB.

    The first frame of an animation; EXIF orientation applied; grey repeated in three channels;
    palettes looked up; transparency laid over white; 16-bit samples reduced to their high byte;
    CMYK, YCbCr and LAB converted by Pillow's formulas; colour profiles not applied.

    Args:
        content: a file in one of FORMATS.
        max_pixels: largest height times width.

    Raises:
        RowError: too_large, told from the header; or decode_error.
    """
    if not content:
        raise RowError(Status.DECODE_ERROR, "expected an image, got 0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd tag is no reason to fail or to flood the log
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                check_pixels(image, max_pixels)
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except DECODER_ERRORS as error:
        lines = str(error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        # Pillow names the in-memory file, which tells a reader nothing.
        reason = reason.partition(" <_io.")[0]
        raise RowError(
            Status.DECODE_ERROR,
            f"expected an image ({', '.join(FORMATS)}), got {len(content)} bytes: {reason}",
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint16)
        if getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:
            samples = 65535 - samples
        grey = (samples >> 8).astype(np.uint8)
        grey[samples == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"samples of 8 or 16 bits expected, not 32 (Pillow's mode {image.mode})")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # convert() would copy it
    return image


def check_pixels(image: Image.Image, max_pixels: int) -> None:
    """Raise when an image has more pixels than are accepted.

    Args:
        image: an image, decoded or not.
        max_pixels: largest height times width.

    Raises:
        RowError: too_large.
    """
    if image.height * image.width > max_pixels:
        raise RowError(
            Status.TOO_LARGE,
            f"expected at most {max_pixels} pixels (images.max_pixels), "
            f"got {image.height} x {image.width} (H x W) = {image.height * image.width}",
        )


def fit_pair(
    reference: Image.Image, distorted: Image.Image, images: ImagesConfig
) -> tuple[Image.Image, Image.Image]:
    """Bring a decoded pair to the size at which it is scored.

    Args:
        reference: the undistorted image.
        distorted: the image to judge.
        images: the rules.

    Raises:
        RowError: size_mismatch, too_large or too_small.
    """
    if reference.size != distorted.size and images.size_mismatch == "error":
        raise RowError(
            Status.SIZE_MISMATCH,
            f"expected the reference's {reference.height} x {reference.width} (H x W), "
            f"got {distorted.height} x {distorted.width}",
        )
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


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
