"""Damaged image files: real encodings of every format, mutated at random."""

import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from spips_core.decode import FORMATS

SIDE_PX = 112
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 96


def encode_all() -> list[tuple[str, bytes]]:
    """Return name and content of files of every format, in variants that decoders tell apart."""
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    waves = np.stack([rows * 2, columns * 2, rows + columns], axis=2).astype(np.uint8)
    rgb = Image.fromarray(waves)
    grey16 = Image.fromarray((rows * 500).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    variants = {
        "JPEG": [(rgb, {}), (rgb, {"progressive": True, "exif": exif}), (rgb.convert("L"), {}),
                 (rgb.convert("CMYK"), {}), (rgb, {"quality": 5, "subsampling": 2})],
        "PNG": [(rgb, {"exif": exif}), (rgb.convert("P"), {}), (rgb.convert("RGBA"), {}),
                (rgb.convert("1"), {}), (rgb.convert("LA"), {}), (grey16, {})],
        "WEBP": [(rgb, {}), (rgb, {"lossless": True}), (rgb.convert("RGBA"), {}), (rgb, frames)],
        "TIFF": [(rgb, {}), (rgb, {"compression": "tiff_lzw"}), (rgb, {"compression": "jpeg"}),
                 (rgb, {"compression": "tiff_adobe_deflate"}), (grey16, {}), (rgb, frames),
                 (rgb.convert("1"), {"compression": "group4"}), (rgb.convert("CMYK"), {})],
        "BMP": [(rgb, {}), (rgb.convert("P"), {}), (rgb.convert("1"), {})],
        "GIF": [(rgb, {}), (rgb, frames), (rgb.convert("L"), {"transparency": 3})],
        "JPEG2000": [(rgb, {}), (rgb, {"irreversible": True}), (rgb.convert("RGBA"), {})],
        "AVIF": [(rgb, {}), (rgb.convert("RGBA"), {}), (rgb, frames)],
    }  # fmt: skip
    encoded = []
    for name in FORMATS:
        for number, (image, options) in enumerate(variants[name]):
            buffer = io.BytesIO()
            image.save(buffer, name, **options)
            encoded.append((f"{name}-{number}", buffer.getvalue()))
    return encoded


def _flip_bits(data: bytearray, choice: random.Random) -> None:
    for _ in range(choice.choice((1, 1, 2, 8, 64))):
        data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)


def _damage_header(data: bytearray, choice: random.Random) -> None:
    for _ in range(choice.randint(1, 6)):
        data[choice.randrange(min(HEADER_BYTES, len(data)))] = choice.randrange(256)


def _set_number(data: bytearray, choice: random.Random) -> None:
    size = choice.choice((1, 2, 4))
    value = choice.choice(INTERESTING) & ((1 << 8 * size) - 1)
    start = choice.randrange(max(1, len(data) - size))
    data[start : start + size] = value.to_bytes(size, choice.choice(("little", "big")))


def _cut(data: bytearray, choice: random.Random) -> None:
    start = choice.randrange(len(data))
    del data[start : start + choice.randint(1, max(1, len(data) // 4))]


def _truncate(data: bytearray, choice: random.Random) -> None:
    del data[choice.randrange(len(data)) :]


def _repeat(data: bytearray, choice: random.Random) -> None:
    start = choice.randrange(len(data))
    data[start:start] = data[start : start + choice.randint(1, 200)] * choice.randint(1, 20)


def _insert_noise(data: bytearray, choice: random.Random) -> None:
    start = choice.randrange(len(data))
    data[start:start] = choice.randbytes(choice.randint(1, 64))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bits, _damage_header, _set_number, _set_number, _cut, _truncate, _repeat, _insert_noise,
)  # fmt: skip


def mutate(seeds: list[tuple[str, bytes]], number: int) -> tuple[str, bytes]:
    """Return the name of a seed and its content, damaged; the same for the same number.

    Args:
        seeds: from `encode_all`.
        number: of the file, from 0.
    """
    choice = random.Random(number)
    name, content = seeds[number % len(seeds)]
    data = bytearray(content)
    if choice.random() < 0.1:  # the head of one file, the tail of another
        other = choice.choice(seeds)[1]
        data[choice.randrange(len(data)) :] = other[choice.randrange(len(other)) :]
    for _ in range(choice.choice((1, 1, 1, 2, 4))):
        if data:
            choice.choice(MUTATIONS)(data, choice)
    return name, bytes(data)
