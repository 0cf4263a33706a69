"""What a short segment changes: nothing. Chromium shows each of these files."""

import struct

import numpy as np
import pytest
from PIL import Image

from spips_core.decode import decode_image
from tests.spips_core.test_colour import LINEAR
from tests.spips_core.test_decode import encode


def segment(number: int, body: bytes) -> bytes:
    return struct.pack(">2BH", 0xFF, 0xE0 + number, len(body) + 2) + body


def decode(content: bytes) -> np.ndarray:
    return np.asarray(decode_image(content, 10_000))


@pytest.mark.parametrize(
    ("number", "body"),
    [
        (0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        (2, b"ICC_PROFILE\0\1\1"),
        (14, b"Adobe\0\x64\0\0\0\0\0"),
        (1, b"Exif\0\0MM\0*\0\0\0\x08"),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_segment_of_any_length_does_no_harm(number, body, mode):
    image = Image.radial_gradient("L").resize((40, 30)).convert(mode)
    content = encode(image, "JPEG", quality=95)
    start = content.index(b"\xff\xdb")  # after JFIF's segment or Adobe's
    bare = content[:2] + content[start:]
    expected = decode(bare)
    for length in range(len(body)):
        short = segment(number, body[:length])
        for padding in (b"", b"\xff\xff"):
            np.testing.assert_array_equal(decode(bare[:2] + padding + short + bare[2:]), expected)
            np.testing.assert_array_equal(decode(content[:start] + short + content[start:]),
                                          decode(content))  # fmt: skip


def test_a_profile_beside_a_short_segment_counts():
    image = Image.radial_gradient("L").resize((40, 30)).convert("RGB")
    content = encode(image, "JPEG", icc_profile=LINEAR)
    short = segment(2, b"ICC_PROFILE\0")
    np.testing.assert_array_equal(decode(content[:2] + short + content[2:]), decode(content))
    assert decode(content).mean() > decode(encode(image, "JPEG")).mean() + 20
