"""Split image files into chunks, segments, blocks, entries or boxes, and join them again.

A part is a kind and a body. Joining writes lengths and checksums anew, so that a damaged part is
not refused for these but reaches the decoder; a part's length may be told wrongly on purpose.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Part = tuple[bytes, bytes]


@dataclass(frozen=True)
class Structure:
    """How a kind of file is made of parts.

    Attributes:
        split: from a file to its parts; raises ValueError, IndexError or struct.error for a file
            that is none of this kind.
        join: from parts, and what to add to the length of each, to a file.
        inner: structures of bodies, by the part's kind.
    """

    split: Callable[[bytes], list[Part]]
    join: Callable[[Sequence[Part], Sequence[int]], bytes]
    inner: dict[bytes, "Structure"] = field(default_factory=dict)


def _split_png(content: bytes) -> list[Part]:
    parts, start = [], 8
    while start < len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        parts.append((kind, content[start + 8 : start + 8 + length]))
        start += 12 + length
    return parts


def _join_png(parts: Sequence[Part], lies: Sequence[int]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _number(len(body) + lie) + kind + body + _number(zlib.crc32(kind + body))
        for (kind, body), lie in zip(parts, lies, strict=True)
    )


def _number(value: int) -> bytes:
    return struct.pack(">I", value % (1 << 32))


def _split_segments(content: bytes) -> list[Part]:
    """JPEG and the codestream of JPEG 2000: a scan's data is a part without a kind."""
    parts: list[Part] = [(content[:2], b"")]
    start = 2
    while start + 2 <= len(content):
        kind = content[start : start + 2]
        if kind in (b"\xff\xd9", b"\xff\x93"):  # without a length
            parts.append((kind, b""))
            start += 2
        elif kind[0] == 0xFF and kind[1] not in (0, *range(0xD0, 0xD8)):
            length = int.from_bytes(content[start + 2 : start + 4], "big")
            parts.append((kind, content[start + 4 : start + 2 + length]))
            start += 2 + max(length, 2)
        if parts[-1][0] in (b"\xff\xda", b"\xff\x93") or kind[0] != 0xFF:
            end = start
            while end + 1 < len(content) and not (
                content[end] == 0xFF and content[end + 1] in SCAN_ENDS
            ):
                end += 1
            parts.append((b"", content[start:end]))
            start = max(end, start + 1)
    return parts


SCAN_ENDS = frozenset((*range(0xC0, 0xD0), *range(0xD9, 0xF0), 0x90))


def _join_segments(parts: Sequence[Part], lies: Sequence[int]) -> bytes:
    joined = b""
    for (kind, body), lie in zip(parts, lies, strict=True):
        has_length = kind not in (b"", b"\xff\xd8", b"\xff\x4f", b"\xff\xd9", b"\xff\x93")
        length = struct.pack(">H", (len(body) + 2 + lie) % (1 << 16)) if has_length else b""
        joined += kind + length + body
    return joined


def _split_riff(content: bytes) -> list[Part]:
    parts, start = [], 12
    while start < len(content):
        kind, length = struct.unpack_from("<4sI", content, start)
        parts.append((kind, content[start + 8 : start + 8 + length]))
        start += 8 + length + length % 2
    return parts


def _join_riff(parts: Sequence[Part], lies: Sequence[int]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", (len(body) + lie) % (1 << 32)) + body + bytes(len(body) % 2)
        for (kind, body), lie in zip(parts, lies, strict=True)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _split_gif(content: bytes) -> list[Part]:
    flags = content[10]
    start = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    parts = [(b"head", content[:start])]
    while start < len(content):
        lead = content[start]
        size = {0x21: 2, 0x2C: 10, 0x3B: 1}[lead]
        if lead == 0x2C:
            flags = content[start + 9]
            size += 1 + (3 << (flags & 7) + 1 if flags & 128 else 0)
        parts.append((b"block", content[start : start + size]))
        start += size
        while lead != 0x3B and (length := content[start]):
            parts.append((b"data", content[start + 1 : start + 1 + length]))
            start += 1 + length
        if lead != 0x3B:
            parts.append((b"data", b""))
            start += 1
    return parts


def _join_gif(parts: Sequence[Part], lies: Sequence[int]) -> bytes:
    return b"".join(
        bytes([(len(body) + lie) % 256]) + body if kind == b"data" else body
        for (kind, body), lie in zip(parts, lies, strict=True)
    )


def _split_tiff(content: bytes) -> list[Part]:
    """Split the first directory into its entries; the rest of the file is one part."""
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (number,) = struct.unpack_from(f"{order}H", content, start)
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(number)]
    return [(b"file", content), *((b"entry", entry) for entry in entries)]


def _join_tiff(parts: Sequence[Part], lies: Sequence[int]) -> bytes:
    """Append a new directory, to which the header then points."""
    file = next((body for kind, body in parts if kind == b"file"), b"II*\0")
    file = file.ljust(8, b"\0") + bytes(len(file) % 2)
    order = "<" if file[:2] == b"II" else ">"
    entries = [body.ljust(12, b"\0")[:12] for kind, body in parts if kind == b"entry"]
    number = struct.pack(f"{order}H", (len(entries) + sum(lies)) % (1 << 16))
    head = file[:4] + struct.pack(f"{order}I", len(file))
    return head + file[8:] + number + b"".join(entries) + bytes(4)


def _split_boxes(content: bytes, start: int = 0) -> list[Part]:
    parts = [(b"", content[:start])] if start else []
    while start < len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        length = length or len(content) - start
        if length < 8:
            raise ValueError("no boxes")
        parts.append((kind, content[start + 8 : start + length]))
        start += length
    return parts


def _join_boxes(parts: Sequence[Part], lies: Sequence[int]) -> bytes:
    return b"".join(
        _number(len(body) + 8 + lie) + kind + body if kind else body
        for (kind, body), lie in zip(parts, lies, strict=True)
    )


def _split_fields(content: bytes) -> list[Part]:
    """BMP has no parts: its header is split into numbers."""
    return [(b"", content[i : i + 2]) for i in range(0, 54, 2)] + [(b"", content[54:])]


def _join_fields(parts: Sequence[Part], lies: Sequence[int]) -> bytes:
    return b"".join(body for _, body in parts)


TIFF = Structure(_split_tiff, _join_tiff)
SEGMENTS = Structure(_split_segments, _join_segments)
BOXES = Structure(_split_boxes, _join_boxes)
FULL_BOXES = Structure(lambda content: _split_boxes(content, 4), _join_boxes)
for structure in (BOXES, FULL_BOXES):
    containers = (b"iprp", b"ipco", b"jp2h", b"moov", b"trak", b"mdia", b"minf", b"stbl")
    structure.inner.update(dict.fromkeys(containers, BOXES))
    structure.inner.update({b"meta": FULL_BOXES, b"jp2c": SEGMENTS})

STRUCTURES = {
    "PNG": Structure(_split_png, _join_png, {b"eXIf": TIFF}), "JPEG": SEGMENTS,
    "WEBP": Structure(_split_riff, _join_riff), "GIF": Structure(_split_gif, _join_gif),
    "TIFF": TIFF, "AVIF": BOXES, "JPEG2000": BOXES, "BMP": Structure(_split_fields, _join_fields),
}  # fmt: skip
