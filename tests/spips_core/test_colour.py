"""Colours as browsers show them. Exact values are Chromium 156's, of the same files."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from spips_core.colour import PRIMARIES, SRGB_CURVE, matrix_profile
from spips_core.decode import decode_image
from tests.spips_core.test_decode import encode, with_chunks

P3 = matrix_profile(PRIMARIES[12], SRGB_CURVE)
LINEAR = matrix_profile(PRIMARIES[1], (1.0,))
SRGB_TO_P3 = [[0.82246, 0.17754, 0], [0.03319, 0.96681, 0], [0.01708, 0.07240, 0.91052]]
"""CSS Color Module Level 4."""


def decode(content: bytes, **options) -> np.ndarray:
    return np.asarray(decode_image(content, 10_000, **options)).astype(int)


def differ(first, second) -> int:
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())


@pytest.fixture
def picture() -> Image.Image:
    rows, columns = np.mgrid[0:40, 0:50]
    return Image.fromarray(np.stack([rows * 6, columns * 5, 255 - rows - columns], -1).astype("u1"))


def to_light(samples):
    samples = np.asarray(samples) / 255
    return np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)


def to_samples(light):
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * curve).astype("u1")


def grey_profile() -> bytes:
    """A profile of grey, whose samples are proportional to light."""
    d50 = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = struct.pack(">4sIII", b"curv", 0, 0, 0)
    header = struct.pack(">I4xI4s4s4s12x4s28x12s48x", 204, 0x02400000, b"mntr", b"GRAY", b"XYZ ",
                         b"acsp", d50[8:])  # fmt: skip
    tags = struct.pack(">I4s2I4s2I", 2, b"kTRC", 188, 16, b"wtpt", 156, 20)
    return header + tags + bytes(0) + d50 + bytes(12) + curve


@pytest.mark.parametrize(
    ("format_", "options"),
    [("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True}),
     ("TIFF", {}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})],
)  # fmt: skip
def test_a_picture_in_display_p3_is_its_srgb_copy(picture, format_, options):
    wide = Image.fromarray(to_samples(to_light(picture) @ np.transpose(SRGB_TO_P3)))
    content = encode(wide, format_, icc_profile=P3, **options)
    error = np.abs(decode(content) - np.asarray(picture))
    assert error.mean() < 1.5
    ignored = decode(content, convert_colours=False)
    assert np.abs(ignored - np.asarray(wide)).mean() < 1.5 < np.abs(ignored - picture).mean() - 3


def test_alpha_and_palettes_are_converted_too(picture):
    palette = picture.quantize(16)
    linear = to_samples(np.asarray(palette.convert("RGB")) / 255)
    assert differ(decode(encode(palette, icc_profile=LINEAR)), linear) <= 1
    picture.putalpha(128)
    half = decode(encode(picture, icc_profile=LINEAR))
    linear = to_samples(np.asarray(picture)[..., :3] / 255)
    assert differ(half, (linear + 255.0) / 2) <= 2


def test_grey_has_a_profile_of_grey_or_of_colours(picture):
    grey = picture.convert("L")
    expected = to_samples(np.asarray(grey) / 255)[..., None]
    for profile in (LINEAR, grey_profile()):
        for image in (grey, grey.convert("LA")):
            assert differ(decode(encode(image, icc_profile=profile)), expected) <= 1


def test_cmyk_is_converted_by_its_profile():
    cmyk = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", icc_profile=LINEAR)
    assert decode(cmyk)[0, 0, 0] > 240  # a profile of RGB does not fit


def test_an_srgb_profile_changes_nothing(picture):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rounded = matrix_profile(tuple(value + 0.0001 for value in PRIMARIES[1]), SRGB_CURVE)
    for profile in (srgb, rounded):
        assert differ(decode(encode(picture, icc_profile=profile)), picture) == 0


@pytest.mark.parametrize("profile", [b"junk" * 50, P3[:200], P3[:128] + bytes(300), bytes(5 << 20),
                                     grey_profile()])  # fmt: skip
def test_a_profile_that_is_damaged_or_does_not_fit_is_ignored(picture, profile):
    for format_ in ("PNG", "TIFF"):
        assert differ(decode(encode(picture, format_, icc_profile=profile)), picture) == 0


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def primaries(number: int) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in PRIMARIES[number]))


def cicp(*numbers: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes(numbers)


@pytest.mark.parametrize(
    ("chunks", "grey", "red"),
    [
        ([gamma(0.45455)], 17, [161, 0, 0]),
        ([gamma(0.45455), primaries(1)], 9, [162, 0, 0]),
        ([gamma(0.45455), primaries(12)], 9, [178, 0, 0]),
        ([gamma(1)], 73, [208, 0, 0]),
        ([gamma(0.00001)], 0, [0, 0, 0]),
        ([gamma(0.03)], 0, [0, 0, 0]),
        ([gamma(0.2)], 0, [89, 0, 0]),
        ([gamma(20)], 240, [252, 0, 0]),
        ([gamma(40_000)], 255, [255, 0, 0]),
        ([gamma(1), (b"cHRM", bytes(32))], 17, [161, 0, 0]),
        ([gamma(1), (b"sRGB", b"\0")], 17, [161, 0, 0]),
        ([gamma(0)], 17, [161, 0, 0]),
        ([primaries(12)], 17, [161, 0, 0]),
        ([cicp(1, 13, 0, 1)], 17, [161, 0, 0]),
        ([cicp(12, 13, 0, 1), gamma(1), (b"sRGB", b"\0")], 17, [176, 0, 0]),
        ([cicp(9, 13, 0, 1)], 17, [202, 0, 0]),
        ([cicp(1, 1, 0, 1)], 5, [156, 0, 0]),
        ([cicp(1, 8, 0, 1)], 73, [208, 0, 0]),
        ([cicp(99, 99, 0, 1), gamma(1)], 73, [208, 0, 0]),
        ([cicp(12, 13, 0, 0)], 17, [161, 0, 0]),
        ([cicp(9, 16, 0, 1)], 17, [161, 0, 0]),  # HDR is not converted
    ],
)
def test_a_png_s_numbers_declare_its_colours(chunks, grey, red):
    image = Image.new("RGB", (2, 1), (17, 17, 17))
    image.putpixel((1, 0), (161, 0, 0))
    pixels = decode(with_chunks(encode(image), *chunks))
    assert differ(pixels[0], [[grey] * 3, red]) <= 1
    ignored = decode(with_chunks(encode(image), *chunks), convert_colours=False)
    assert differ(ignored, image) == 0


def test_cicp_comes_before_a_profile_and_this_before_gamma(picture):
    content = encode(picture, icc_profile=LINEAR)
    expected = to_samples(np.asarray(picture) / 255)
    assert differ(decode(with_chunks(content, gamma(0.3))), expected) <= 1
    assert differ(decode(with_chunks(content, cicp(1, 13, 0, 1))), picture) == 0


def test_an_avif_s_numbers_declare_its_colours():
    content = encode(Image.new("RGB", (16, 16), (129, 129, 129)), "AVIF", quality=100)
    start = content.index(b"colrnclx") + 8
    for curve, expected in ((13, 129), (1, 129), (8, 189), (4, 130), (16, 129)):
        changed = content[:start] + bytes([0, 1, 0, curve]) + content[start + 4 :]
        assert differ(decode(changed), expected) <= 1
