"""Damaged image files: real encodings of every format, mutated part by part."""

import io
import random
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from spips_core.colour import PRIMARIES, SRGB_CURVE, matrix_profile
from spips_core.decode import FORMATS
from tests.fuzz.structure import STRUCTURES, Part, Structure

SIDE_PX = 112
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def encode_all() -> list[tuple[str, bytes]]:
    """Return format and content of files of every format, in variants that decoders tell apart."""
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    waves = np.stack([rows * 2, columns * 2, rows + columns], axis=2).astype(np.uint8)
    rgb = Image.fromarray(waves)
    grey16 = Image.fromarray((rows * 500).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = {"icc_profile": matrix_profile(PRIMARIES[12], SRGB_CURVE)}
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    text = PngInfo()
    text.add_text("parameters", "a prompt " * 50, zip=True)
    text.add(b"gAMA", struct.pack(">I", 50_000))
    text.add(b"cICP", bytes([9, 13, 0, 1]))
    variants = {
        "JPEG": [(rgb, {}), (rgb, {"progressive": True, "exif": exif}), (rgb.convert("L"), {}),
                 (rgb.convert("CMYK"), {}), (rgb, {"quality": 5, "subsampling": 2}), (rgb, icc),
                 (rgb, {"restart_marker_blocks": 3})],
        "PNG": [(rgb, {"exif": exif}), (rgb.convert("P"), {}), (rgb.convert("RGBA"), icc),
                (rgb.convert("1"), {}), (rgb.convert("LA"), {}), (grey16, {}), (rgb, frames),
                (rgb, {**frames, "default_image": True}), (rgb, {"pnginfo": text}),
                (rgb.convert("P"), {"transparency": 3, "bits": 4})],
        "WEBP": [(rgb, {}), (rgb, {"lossless": True, "exif": exif}), (rgb.convert("RGBA"), icc),
                 (rgb, frames)],
        "TIFF": [(rgb, {}), (rgb, {"compression": "tiff_lzw"}), (rgb, {"compression": "jpeg"}),
                 (rgb, {"compression": "tiff_adobe_deflate"}), (grey16, {}), (rgb, frames),
                 (rgb.convert("1"), {"compression": "group4"}), (rgb.convert("CMYK"), icc)],
        "BMP": [(rgb, {}), (rgb.convert("P"), {}), (rgb.convert("1"), {})],
        "GIF": [(rgb, {}), (rgb, frames), (rgb.convert("L"), {"transparency": 3})],
        "JPEG2000": [(rgb, {}), (rgb, {"irreversible": True}), (rgb.convert("RGBA"), {})],
        "AVIF": [(rgb, {}), (rgb.convert("RGBA"), icc), (rgb, frames)],
    }  # fmt: skip
    encoded = []
    for name in FORMATS:
        for image, options in variants[name]:
            buffer = io.BytesIO()
            image.save(buffer, name, **options)
            encoded.append((name, buffer.getvalue()))
    return encoded


Parts = list[Part]


def _drop(parts: Parts, at: int, choice: random.Random) -> None:
    del parts[at : at + choice.choice((1, 1, 1, 3))]


def _repeat(parts: Parts, at: int, choice: random.Random) -> None:
    parts[at:at] = [parts[at]] * choice.choice((1, 1, 2, 40))


def _move(parts: Parts, at: int, choice: random.Random) -> None:
    parts.insert(choice.randrange(len(parts)), parts.pop(at))


def _rename(parts: Parts, at: int, choice: random.Random) -> None:
    parts[at] = choice.choice(parts)[0], parts[at][1]


def _cut(parts: Parts, at: int, choice: random.Random) -> None:
    kind, body = parts[at]
    end = choice.choice((0, 1, len(body) // 2, len(body) - 1, choice.randint(0, len(body))))
    parts[at] = kind, body[: max(end, 0)]


def _extend(parts: Parts, at: int, choice: random.Random) -> None:
    kind, body = parts[at]
    more = (b"\0", bytes(1000), choice.randbytes(9), body)
    parts[at] = kind, body + choice.choice(more)


def _nudge(parts: Parts, at: int, choice: random.Random) -> None:
    """Change a number in a part, mostly by one."""
    kind, body = parts[at]
    size, order = choice.choice((1, 2, 4)), choice.choice(("little", "big"))
    if len(body) < size:
        return
    start = choice.randint(0, min(len(body) - size, choice.choice((12, 80, len(body)))))
    value = int.from_bytes(body[start : start + size], order)
    value = choice.choice((value - 1, value + 1, 2 * value, choice.choice(INTERESTING)))
    number = (value % (1 << 8 * size)).to_bytes(size, order)
    parts[at] = kind, body[:start] + number + body[start + size :]


def _flip(parts: Parts, at: int, choice: random.Random) -> None:
    kind, body = parts[at]
    flipped = bytearray(body)
    for _ in range(choice.choice((1, 1, 8)) if body else 0):
        flipped[choice.randrange(len(flipped))] ^= 1 << choice.randrange(8)
    parts[at] = kind, bytes(flipped)


MUTATIONS: tuple[Callable[[Parts, int, random.Random], None], ...] = (
    _drop, _repeat, _move, _rename, _cut, _extend, _nudge, _nudge, _nudge, _flip,
)  # fmt: skip


def _mutate(content: bytes, other: bytes, structure: Structure, choice: random.Random) -> bytes:
    """Damage parts of a file, or parts of a part; `other` is a file that lends parts."""
    parts = structure.split(content)
    nested = [at for at, (kind, body) in enumerate(parts) if kind in structure.inner and body]
    if nested and choice.random() < 0.8:
        at = choice.choice(nested)
        kind, body = parts[at]
        parts[at] = kind, _mutate(body, body, structure.inner[kind], choice)
        return structure.join(parts, [0] * len(parts))
    for _ in range(choice.choice((1, 1, 1, 2, 4))):
        if not parts or choice.random() < 0.1:
            parts.insert(choice.randint(0, len(parts)), choice.choice(structure.split(other)))
        else:
            choice.choice(MUTATIONS)(parts, choice.randrange(len(parts)), choice)
    lies = [0] * len(parts)
    if parts and choice.random() < 0.2:
        lies[choice.randrange(len(parts))] = choice.choice((-1, 1, 2, -4, 1 << 20))
    return structure.join(parts, lies)


def mutate(seeds: list[tuple[str, bytes]], number: int) -> tuple[str, bytes]:
    """Return a seed's format and its content, damaged; the same for the same number.

    Args:
        seeds: from `encode_all`.
        number: of the file, from 0.
    """
    choice = random.Random(number)
    name, content = seeds[number % len(seeds)]
    other = choice.choice([content for kind, content in seeds if kind == name])
    data = _mutate(content, other, STRUCTURES[name], choice)
    if choice.random() < 0.1:  # the end is missing
        data = data[: -choice.choice((1, 2, 3, 4, 8, 12, len(data) // 2)) or None]
    return name, data
