"""Find the picture of a PNG file that a browser shows first, and the colours that it declares.

Pillow then decodes a file of that picture alone. So no text is inflated, whatever its size, and
damage to what a browser does not need for the picture does no harm.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from spips_core.colour import CURVES, MAX_PROFILE_BYTES, PRIMARIES, matrix_profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRANSPARENCY_BYTES = {0: (2, 256), 2: (6, 256), 3: (0, 256)}
"""Of a chunk tRNS, by colour type: grey, RGB, palette. Browsers ignore shorter and longer ones."""
USUAL_GAMMA, GAMMA_TOLERANCE = 0.45455, 0.01
"""Browsers take this gamma for sRGB where no primaries are given."""


@dataclass(frozen=True)
class Picture:
    """The first frame of an animation, or else a file's one picture.

    Attributes:
        content: a PNG of this picture alone.
        size: width and height of the canvas on which a browser shows it.
        corner: its left and top on the canvas.
        profile: an ICC profile of its colours; None for sRGB.
    """

    content: bytes
    size: tuple[int, int]
    corner: tuple[int, int]
    profile: bytes | None


def first_picture(content: bytes) -> Picture:
    """Return the first picture; its pixels are not decoded, and may be damaged.

    Args:
        content: a file that starts with SIGNATURE.

    Raises:
        ValueError: the header or the palette is damaged.
    """
    about: dict[bytes, bytes] = {}  # chunks before the pixels
    data: list[bytes] = []
    frame: list[bytes] = []  # the pixels of an animation that does not begin with `data`
    control = previous = b""
    for kind, body, is_intact in _chunks(content):
        if kind == b"IDAT" and (previous == kind or not data):
            data.append(body)
        elif kind == b"fdAT" and control and (previous == kind or not frame):
            frame.append(body[4:])
        elif kind == b"fcTL" and data and is_intact and len(body) == 26 and not control:
            control = body
        elif not data and is_intact:
            about.setdefault(kind, body)
        elif kind in (b"IHDR", b"PLTE"):
            raise ValueError(f"an intact chunk {kind.decode()} expected")
        previous = kind
    header, corner = about.get(b"IHDR", b""), (0, 0)
    width, height = struct.unpack(">II", header[:8])
    if b"fcTL" not in about and about.get(b"acTL", bytes(4))[:4] != bytes(4) and frame:
        frame_width, frame_height, left, top = struct.unpack(">4I", control[4:20])
        if left + frame_width <= width and top + frame_height <= height:
            header, corner, data = control[4:12] + header[8:], (left, top), frame
    least, most = TRANSPARENCY_BYTES.get(header[9], (0, 0))
    if not least <= len(about.get(b"tRNS", b"")) <= most:
        about.pop(b"tRNS", None)
    kept = [(kind, about[kind]) for kind in (b"PLTE", b"tRNS", b"eXIf") if kind in about]
    parts = [(b"IHDR", header), *kept, (b"IDAT", b"".join(data)), (b"IEND", b"")]
    alone = SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return Picture(alone, (width, height), corner, _profile(about))


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield each chunk's kind and body, and whether the checksum fits; the last may be cut."""
    start = len(SIGNATURE)
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        body = content[start + 8 : end]
        # Pixels have a checksum of their own.
        is_intact = kind in (b"IDAT", b"fdAT") or content[end : end + 4] == struct.pack(
            ">I", zlib.crc32(body, zlib.crc32(kind))
        )
        yield kind, body, is_intact
        if kind == b"IEND":
            break
        start = end + 4


def _profile(about: dict[bytes, bytes]) -> bytes | None:
    """Return an ICC profile: of cICP, else of iCCP, else of gAMA and cHRM, unless sRGB is there."""
    cicp = about.get(b"cICP", b"")
    if len(cicp) == 4 and cicp[0] in PRIMARIES and cicp[1] in CURVES and cicp[2:] == b"\0\1":
        return matrix_profile(PRIMARIES[cicp[0]], CURVES[cicp[1]])
    packed = about.get(b"iCCP", b"").partition(b"\0")[2][1:]
    try:
        inflater = zlib.decompressobj()
        profile = inflater.decompress(packed, MAX_PROFILE_BYTES)
    except zlib.error:
        profile = b""
    if profile and not inflater.unconsumed_tail:
        return profile
    body = about.get(b"gAMA", b"")
    gamma = int.from_bytes(body, "big") / 100_000
    if b"sRGB" in about or not gamma or len(body) != 4:
        return None
    primaries = PRIMARIES[1]
    if len(about.get(b"cHRM", b"")) == 32:
        primaries = tuple(x / 100_000 for x in struct.unpack(">8I", about[b"cHRM"]))
    elif abs(gamma - USUAL_GAMMA) < GAMMA_TOLERANCE:
        return None
    return matrix_profile(primaries, (1 / gamma,))
