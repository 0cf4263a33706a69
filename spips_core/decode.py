"""Decode an image file to 8-bit RGB: which formats, by which rules, up to which size.

Imports no torch, because the processes that load images do not need it.
"""

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageFile, features

from spips_core import jpeg, png
from spips_core.colour import CURVES, PRIMARIES, SRGB_CURVE, matrix_profile, to_srgb
from spips_core.errors import TooManyPixelsError, UndecodableImageError

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP") + (
    ("AVIF",) if features.check("avif") else ()
)
ENDS = {
    jpeg.SIGNATURE: (b"\xff\xd9", b"\xaa\x55" * 32 + b"\xff\xd9"),
    b"GI": (b"\0;", b"\xff" + bytes(range(255)) + b"\0;"),
}
"""Two ends for a JPEG or GIF that lacks its own, by how the file starts."""

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation but the first."""

TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 262, 0

# Pillow reads, writes and packs pixels in pieces of this size, and copies once more to join them.
# The pixels of most images fit in one piece of four MiB.
ImageFile.MAXBLOCK = 1 << 22

# Pillow's own limit is one fixed number. `decode_image` checks the caller's limit instead, from the
# header, before it decodes anything.
Image.MAX_IMAGE_PIXELS = None


def decode_image(content: bytes, max_pixels: int, *, convert_colours: bool = True) -> Image.Image:
    """Decode an image file to 8-bit RGB, as a browser shows it on a white page.

    - An animation gives its first frame. What the frame leaves free of its canvas is white.
    - The EXIF orientation is applied, one in XMP is not.
    - Grey is repeated in three channels.
    - Palettes are looked up.
    - Transparency is composed over white.
    - 16-bit samples keep their high byte.
    - Colours are converted to sRGB from what the file declares: an ICC profile (but not in
      JPEG 2000); cICP, or gAMA and cHRM, in PNG; nclx in AVIF. Damaged profiles, and HDR curves (PQ
      and HLG), are ignored.
    - CMYK, YCbCr and LAB without a profile are converted by Pillow's formulas.
    - A file may lack what follows its pixels, such as JPEG's end marker; all pixels must be there.
    - Texts, and metadata that is damaged or too short, are ignored.

    Args:
        content: a file in one of `FORMATS`.
        max_pixels: largest accepted height times width.
        convert_colours: False takes all samples for sRGB, whatever the file declares.

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
            return _decode_or_complete(content, max_pixels, convert_colours)
    except TooManyPixelsError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        lines = str(error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        # Pillow names the in-memory file, which tells a reader nothing.
        reason = reason.partition(" <_io.")[0]
        raise UndecodableImageError(
            f"expected an image ({', '.join(FORMATS)}), got {len(content)} bytes: {reason}"
        ) from error


def _decode_or_complete(content: bytes, max_pixels: int, convert_colours: bool) -> Image.Image:
    """Decode a file, and one whose pixels are all there although its end is missing.

    They are if what follows them does not matter.
    """
    try:
        return _decode(content, max_pixels, convert_colours)
    except OSError:
        ends = ENDS.get(content[:2])
        if ends is None or (content[0] == 0xFF and not jpeg.has_every_scan(content)):
            raise
        cut = content.rstrip(b"\xff") if content[0] == 0xFF else content
        image, other = (_decode(cut + end, max_pixels, convert_colours) for end in ends)
        if image.tobytes() != other.tobytes():
            raise
        return image


def _decode(content: bytes, max_pixels: int, convert_colours: bool) -> Image.Image:
    picture = None
    if content.startswith(jpeg.SIGNATURE):
        content = jpeg.without_short_segments(content)
    elif content.startswith(png.SIGNATURE):
        picture = png.first_picture(content)
        _check_pixels(picture.size, max_pixels)
        content = picture.content
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_pixels(image.size, max_pixels)
        for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow would apply its orientation
            image.info.pop(name, None)
        box = image.tile[0].extents if image.format == "GIF" else None
        profile = picture.profile if picture else image.info.get("icc_profile")
        if image.format == "AVIF" and not profile:
            profile = _avif_profile(content)
        rgb = _to_rgb(image, profile if convert_colours else None)
        if picture and picture.size != rgb.size:
            rgb = _place(rgb, picture.corner, picture.size)
        elif box and box != (0, 0, *image.size):
            rgb = _place(rgb.crop(box), box[:2], image.size)
        turn = ORIENTATIONS.get(_orientation(image))
        return rgb if turn is None else rgb.transpose(turn)


def _avif_profile(content: bytes) -> bytes | None:
    """Return an ICC profile of the colour numbers (nclx) of an AVIF file; None for sRGB."""
    _, found, numbers = content.partition(b"colrnclx")
    primaries, curve = numbers[1:4:2] if found else (0, 0)
    if primaries not in PRIMARIES or curve not in CURVES:
        return None
    # Unlike in PNG, browsers show video's curve as sRGB's.
    is_video = CURVES[curve] == CURVES[1]
    return matrix_profile(PRIMARIES[primaries], SRGB_CURVE if is_video else CURVES[curve])


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if height * width > max_pixels:
        raise TooManyPixelsError(
            f"expected at most {max_pixels} pixels (max_pixels), "
            f"got {height} x {width} (H x W) = {height * width}"
        )


def _place(rgb: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, "white")
    canvas.paste(rgb, corner)
    return canvas


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - damaged metadata never fails an image
        return 1


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    is_grey = image.mode in ("1", "L", "LA", "La")
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint16)
        if getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:
            samples = 65535 - samples
        grey = (samples >> 8).astype(np.uint8)
        grey[samples == image.info.get("transparency", -1)] = 255
        return to_srgb(Image.fromarray(grey), profile)
    if image.mode in ("I", "F"):
        raise ValueError(f"samples of 8 or 16 bits expected, not 32 (Pillow's mode {image.mode})")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if profile:
            alpha = rgba.getchannel("A")
            rgba = to_srgb(image.convert("L") if is_grey else rgba.convert("RGB"), profile)
            rgba.putalpha(alpha)
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    image.load()  # convert() would copy it
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("L" if is_grey else "RGB")
    return to_srgb(image, profile)
