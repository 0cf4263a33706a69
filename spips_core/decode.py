"""Decode an image file to 8-bit RGB: which formats, by which rules, up to which size.

Imports no torch, because the processes that load images do not need it.
"""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageFile, ImageOps, features

from spips_core.errors import TooManyPixelsError, UndecodableImageError

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP") + (
    ("AVIF",) if features.check("avif") else ()
)
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError,
    AttributeError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files."""

TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 262, 0

# Pillow reads, writes and packs pixels in pieces of this size, and copies once more to join them.
# The pixels of most images fit in one piece of four MiB.
ImageFile.MAXBLOCK = 1 << 22

# Pillow's own limit is one fixed number. `decode_image` checks the caller's limit instead, from the
# header, before it decodes anything.
Image.MAX_IMAGE_PIXELS = None


def decode_image(content: bytes, max_pixels: int) -> Image.Image:
    """Decode an image file to 8-bit RGB.

    - An animation gives its first frame.
    - The EXIF orientation is applied.
    - Grey is repeated in three channels.
    - Palettes are looked up.
    - Transparency is composed over white.
    - 16-bit samples keep their high byte.
    - CMYK, YCbCr and LAB are converted by Pillow's formulas.
    - Colour profiles are ignored.

    Args:
        content: a file in one of `FORMATS`.
        max_pixels: largest accepted height times width.

    Returns:
        The image in mode RGB.

    Raises:
        TooManyPixelsError: the header announces more pixels; nothing was decoded.
        UndecodableImageError: the file is damaged, or in another format.
    """
    if not content:
        raise UndecodableImageError("expected an image, got 0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd tag must not fail the image or flood the log
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_pixels(image, max_pixels)
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except TooManyPixelsError:
        raise
    except DECODER_ERRORS as error:
        lines = str(error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        # Pillow names the in-memory file, which tells a reader nothing.
        reason = reason.partition(" <_io.")[0]
        raise UndecodableImageError(
            f"expected an image ({', '.join(FORMATS)}), got {len(content)} bytes: {reason}"
        ) from error


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    if image.height * image.width > max_pixels:
        raise TooManyPixelsError(
            f"expected at most {max_pixels} pixels (max_pixels), "
            f"got {image.height} x {image.width} (H x W) = {image.height * image.width}"
        )


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
