"""Convert decoded images to sRGB from the colours that their files declare.

A file declares its colours by an ICC profile, or by a few numbers, which become a profile
here. The intent is perceptual, as in browsers: it chooses among a profile's tables. A profile that
has only primaries and curves, as those of screens and cameras, gives the same with any intent.
"""

import struct
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 1 << 22
"""A larger profile is ignored; those of printers have up to 3 MB."""
PROFILE_SPACE = slice(16, 20)
SRGB_TOLERANCE = 2
"""Levels of 255. A profile that moves no colour further is sRGB, written by another hand."""

PRIMARIES = {
    1: (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""ITU-T H.273: x and y of white, red, green and blue, of BT.709 and sRGB, BT.2020, Display P3."""
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CURVES: dict[int, tuple[float, ...]] = {
    1: (2.4,), 4: (2.2,), 5: (2.8,), 6: (2.4,), 8: (1.0,), 13: SRGB_CURVE, 14: (2.4,), 15: (2.4,),
}  # fmt: skip
"""ITU-T H.273: exponent from samples to light, or all parameters of the ICC's function type 3.

As browsers do, video (1, 6, 14, 15) is shown as on a television, by BT.1886.
"""

D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image as sRGB in mode RGB.

    Args:
        image: in mode RGB, L, CMYK or LAB.
        profile: an ICC profile. A damaged one, and one for images of another kind, is ignored.
    """
    if profile and image.mode == "L" and profile[PROFILE_SPACE] == b"RGB ":
        image = image.convert("RGB")
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform to sRGB; None if the profile is sRGB or cannot be used."""
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
    except Exception:  # noqa: BLE001 - a damaged profile never fails an image
        return None
    if mode == "RGB":
        colours = np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3), axis=-1)
        sample = Image.fromarray(colours.reshape(16, 256, 3))
        converted = np.asarray(transform.apply(sample), np.int16)
        if np.abs(converted - np.asarray(sample)).max() <= SRGB_TOLERANCE:
            return None
    return transform


def matrix_profile(primaries: tuple[float, ...], curve: tuple[float, ...]) -> bytes | None:
    """Return an ICC profile for primaries and a curve; None if no colours have such primaries.

    Args:
        primaries: as in PRIMARIES.
        curve: as in CURVES.
    """
    x, y = np.reshape(primaries, (4, 2)).T
    if (y <= 0).any():
        return None
    white, *rgb = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    matrix = np.transpose(rgb)
    if abs(np.linalg.det(matrix)) < 1e-6:
        return None
    cones = BRADFORD @ white
    adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / cones) @ BRADFORD
    matrix = adapt @ (matrix * np.linalg.solve(matrix, white))
    tags = {
        name: b"XYZ \0\0\0\0" + _fixed(column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)
    }
    function = struct.pack(">4sIHH", b"para", 0, 3 if len(curve) > 1 else 0, 0) + _fixed(curve)
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + _fixed(D50)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), function)
    start = 128 + 4 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(content), len(tag))
        content += tag
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x", start + len(content), 0x04300000,
        b"mntr", b"RGB ", b"XYZ ", b"acsp", _fixed(D50),
    )  # fmt: skip
    return header + table + content


def _fixed(values: np.typing.ArrayLike) -> bytes:
    """Return numbers as the ICC's s15Fixed16Number."""
    scaled = np.rint(np.asarray(values) * 65536)
    return bytes(np.clip(scaled, -(2**31), 2**31 - 1).astype(">i4").tobytes())
