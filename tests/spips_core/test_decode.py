import io
import re
import struct
import tracemalloc
import zlib
from itertools import starmap

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jobs.demo import empty_png
from spips_core.decode import FORMATS, decode_image
from spips_core.errors import TooManyPixelsError, UndecodableImageError

MAX_PIXELS = 1_000_000


def encode(image: Image.Image, format_: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks after a PNG's header."""
    return png[:33] + b"".join(starmap(chunk, chunks)) + png[33:]


def decode(content: bytes) -> np.ndarray:
    image = decode_image(content, MAX_PIXELS)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def photo() -> Image.Image:
    rows, columns = np.mgrid[0:40, 0:50]
    return Image.fromarray(np.stack([rows * 6, columns * 5, 255 - rows - columns], -1).astype("u1"))


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
    ],
)
def test_lossless_formats_give_back_the_pixels(photo, format_, options):
    np.testing.assert_array_equal(decode(encode(photo, format_, **options)), np.asarray(photo))


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_lossy_formats_give_nearly_the_pixels(photo, format_):
    if format_ not in FORMATS:
        pytest.skip(f"Pillow is built without {format_}")
    got = decode(encode(photo, format_)).astype(int)
    assert np.abs(got - np.asarray(photo)).mean() < 8


def test_a_phones_jpeg_of_several_pictures_gives_the_first(photo):
    content = encode(photo, "MPO", save_all=True, append_images=[photo.rotate(180)])
    np.testing.assert_array_equal(decode(content), decode(encode(photo, "JPEG")))


@pytest.mark.parametrize(
    ("format_", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})]
)
def test_an_animation_gives_its_first_frame(photo, format_, options):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    content = encode(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert set(map(tuple, decode(content).reshape(-1, 3))) == {(255, 0, 0)}


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    expected = np.asarray(photo.transpose(turned))
    np.testing.assert_array_equal(decode(encode(photo, "PNG", exif=exif)), expected)


def test_grey_is_repeated_in_three_channels(photo):
    grey = photo.convert("L")
    for channel in decode(encode(grey)).transpose(2, 0, 1):
        np.testing.assert_array_equal(channel, np.asarray(grey))


def test_black_and_white_becomes_0_and_255():
    image = Image.fromarray(np.array([[True, False]] * 2))
    assert decode(encode(image))[0].tolist() == [[255] * 3, [0] * 3]


def test_a_palette_is_looked_up(photo):
    palette = photo.quantize(64)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(palette)), expected)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 51), (128, 153)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composed_over_white(mode, alpha, expected):
    image = Image.new("RGBA", (4, 4), (51, 51, 51, alpha)).convert(mode)
    assert np.abs(decode(encode(image)).astype(int) - expected).max() <= 1


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    pixels = decode(encode(image, transparency=0))
    assert pixels[0, 0].tolist() == [40, 50, 60]
    assert pixels[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "body", "lengths"),
    [("L", b"\0\x33", range(2, 257)), ("RGB", b"\0\x33\0\x33\0\x33", range(6, 257)),
     ("P", bytes(256), range(54, 257))],
)  # fmt: skip
def test_a_png_s_transparency_is_ignored_where_it_is_too_short_or_too_long(mode, body, lengths):
    """As Chromium does."""
    image = Image.new("RGB", (3, 2), (51, 51, 51)).convert(mode)
    opaque = decode(encode(image))
    content = encode(image)
    start = content.index(b"IDAT") - 4
    for length in (0, 1, 2, 5, 6, 54, 256, 257, 300):
        transparency = chunk(b"tRNS", (body + bytes(300))[:length])
        expected = 255 if length in lengths else opaque
        pixels = decode(content[:start] + transparency + content[start:])
        np.testing.assert_array_equal(pixels, np.broadcast_to(expected, opaque.shape))


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(format_):
    samples = np.array([[0, 255, 256, 0x7FFF, 0x80FF, 0xFFFF]], dtype=np.uint16)
    pixels = decode(encode(Image.fromarray(samples), format_))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 0x7F, 0x80, 0xFF]


def test_16_bit_grey_may_be_big_endian_inverted_or_transparent():
    samples = np.array([[0x1234, 0xFF00]], dtype=np.uint16)
    big_endian = Image.frombytes("I;16B", (2, 1), samples.astype(">u2").tobytes())
    assert decode(encode(big_endian, "TIFF"))[0, :, 0].tolist() == [0x12, 0xFF]
    inverted = io.BytesIO()
    tifffile.imwrite(inverted, samples, photometric="miniswhite")
    assert decode(inverted.getvalue())[0, :, 0].tolist() == [255 - 0x12, 0]
    transparent = encode(Image.fromarray(samples), transparency=0x1234)
    assert decode(transparent)[0, :, 0].tolist() == [255, 0xFF]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_of_32_bits_are_refused(mode):
    with pytest.raises(UndecodableImageError, match="8 or 16 bits"):
        decode(encode(Image.new(mode, (4, 4)), "TIFF"))


def test_cmyk_is_converted(photo):
    pixels = decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert pixels[0, 0, 0] > 240
    assert pixels[0, 0, 1:].max() < 15


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff\xe0"],
)
def test_a_file_that_is_no_image_is_refused(content):
    with pytest.raises(UndecodableImageError, match=f"got {len(content)} bytes") as caught:
        decode(content)
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def test_a_palette_image_without_its_palette_is_refused(photo):
    content = encode(photo.quantize(16))
    start = content.index(b"PLTE") - 4
    length = int.from_bytes(content[start : start + 4], "big")
    with pytest.raises(UndecodableImageError, match="expected an image"):
        decode(content[:start] + content[start + 12 + length :])


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_truncated_file_is_refused(photo, format_):
    content = encode(photo.resize((200, 200)), format_)
    with pytest.raises(UndecodableImageError):
        decode(content[: len(content) // 2])


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("num_bytes", [2_000_000, 100_000_000])
def test_long_texts_and_profiles_in_a_png_do_no_harm(photo, kind, num_bytes):
    packed = zlib.compress(bytes(num_bytes), 1)
    body = b"key\0\1\0\0\0" + packed if kind == b"iTXt" else b"key\0\0" + packed
    content = with_chunks(encode(photo), (kind, body))
    tracemalloc.start()
    np.testing.assert_array_equal(decode(content), np.asarray(photo))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_may_lack_its_end_but_no_pixels(photo, options):
    content = encode(photo.resize((200, 200)), "JPEG", **options)
    for cut in (1, 2):
        np.testing.assert_array_equal(decode(content[:-cut]), decode(content))
    for cut in (3, 4, 9, 40, len(content) // 2):
        with pytest.raises(UndecodableImageError, match="truncated"):
            decode(content[:-cut])


def test_a_jpeg_that_ends_after_the_first_of_its_scans_is_refused(photo):
    content = encode(photo, "JPEG", progressive=True)
    scans = [match.start() for match in re.finditer(b"\xff\xda", content)]
    assert len(scans) > 5
    for end in scans[1:]:
        tables = content.rfind(b"\xff\xc4", 0, end)  # each scan's own come before it
        with pytest.raises(UndecodableImageError):
            decode(content[: tables if tables > scans[0] else end])


def test_a_gif_may_lack_its_end_but_no_pixels(photo):
    content = encode(photo, "GIF")
    for cut in (1, 2, 3):
        np.testing.assert_array_equal(decode(content[:-cut]), decode(content))
    for cut in (4, 5, 30):
        with pytest.raises(UndecodableImageError):
            decode(content[:-cut])


def test_a_png_may_lack_its_end_but_no_pixels(photo):
    content = encode(photo)
    end = len(content) - content.index(b"IEND") + 4
    for cut in (4, 12, end + 4):  # of IEND its checksum, all, and the checksum of the pixels
        np.testing.assert_array_equal(decode(content[:-cut]), np.asarray(photo))
    with pytest.raises(UndecodableImageError):
        decode(content[: -end - 4 - 30])


def test_damaged_metadata_does_no_harm(photo):
    short = (b"acTL", b""), (b"cICP", b"\x0c"), (b"gAMA", b"\x01")
    content = with_chunks(encode(photo), (b"eXIf", b"junk"), *short, (b"iCCP", b"junk"))
    start = content.index(b"junk")
    for damaged in (content, content[:start] + b"wrong checksum"[:4] + content[start + 4 :]):
        np.testing.assert_array_equal(decode(damaged), np.asarray(photo))
    content = encode(photo, "WEBP", lossless=True, exif=b"Exif\0\0junk")
    np.testing.assert_array_equal(decode(content), np.asarray(photo))


def test_orientation_in_xmp_alone_is_not_applied(photo):
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    assert decode(encode(photo, "JPEG", xmp=xmp)).shape == (40, 50, 3)
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    assert decode(encode(photo, pnginfo=text)).shape == (40, 50, 3)


def test_what_a_gif_s_first_frame_leaves_free_is_white():
    header = struct.pack("<6sHHBBB", b"GIF89a", 4, 3, 0x80, 0, 0) + bytes([255, 0, 0, 0, 0, 255])
    frame = b"," + struct.pack("<HHHHB", 1, 0, 2, 1, 0) + b"\x02\x02\x4c\x0a\0;"
    pixels = decode(header + frame)
    assert pixels.shape == (3, 4, 3)
    assert pixels[0, 1:3].tolist() == [[0, 0, 255], [0, 0, 255]]
    assert (np.delete(pixels.reshape(12, 3), [1, 2], axis=0) == 255).all()


def animation(*chunks) -> bytes:
    """A PNG of 4 x 3, red outside of the animation, with a green frame at (2, 1)."""
    red, green = (
        zlib.compress((b"\0" + bytes(colour) * width) * height)
        for colour, width, height in (((255, 0, 0), 4, 3), ((0, 255, 0), 2, 1))
    )
    header = struct.pack(">2I5B", 4, 3, 8, 2, 0, 0, 0)
    frame = [(b"fcTL", struct.pack(">5I2H2B", 0, 2, 1, 2, 1, 1, 10, 0, 0)),
             (b"fdAT", bytes([0, 0, 0, 1]) + green)]  # fmt: skip
    parts = [(b"IHDR", header), *chunks, (b"IDAT", red), *frame, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(starmap(chunk, parts))


def test_an_animated_png_gives_its_first_frame_where_its_default_image_is_none():
    pixels = decode(animation((b"acTL", struct.pack(">2I", 1, 0))))
    expected = np.full((3, 4, 3), 255)
    expected[1, 2:] = (0, 255, 0)
    np.testing.assert_array_equal(pixels, expected)


def test_a_png_gives_its_default_image_where_it_is_no_animation():
    first = struct.pack(">5I2H2B", 0, 4, 3, 0, 0, 1, 10, 0, 0)
    is_first = ((b"acTL", struct.pack(">2I", 2, 0)), (b"fcTL", first))
    for chunks in ((), ((b"acTL", struct.pack(">2I", 0, 0)),), is_first):
        assert set(map(tuple, decode(animation(*chunks)).reshape(-1, 3))) == {(255, 0, 0)}


@pytest.mark.parametrize(
    "error", [MemoryError("x"), AssertionError(), type("Odd", (Exception,), {})]
)
def test_whatever_a_decoder_raises_is_a_decode_error(photo, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(UndecodableImageError):
        decode(encode(photo))


def test_a_huge_image_is_refused_from_its_header():
    bomb = empty_png(30_000)
    assert len(bomb) < 200_000
    with pytest.raises(TooManyPixelsError, match=r"\(max_pixels\), got 30000 x 30000"):
        # The pixels are cut off, so decoding them would raise UndecodableImageError.
        decode_image(bomb[:60], max_pixels=16_777_216)
