"""Read the segments of a JPEG file: what Pillow must not see, and whether all scans are there."""

from collections.abc import Iterator

SIGNATURE = b"\xff\xd8"
SCAN = 0xDA
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
NO_SEGMENT = frozenset((0x00, 0x01, *range(0xD0, 0xD9), 0xFF))
"""Bytes after 0xFF: of a scan's header, of a frame's, and of what has no length."""
LEAST_BYTES = {0xE0: 14, 0xE2: 14, 0xEE: 12}
"""The shortest segments of JFIF, ICC profiles and Adobe, by marker. Shorter ones say nothing:
browsers skip them, and Pillow fails on them."""


def without_short_segments(jpeg: bytes) -> bytes:
    """Return a file without the segments in its head that are too short for what they announce."""
    kept, end = b"", 0
    for marker, start, next_start in _segments(jpeg):
        if marker == SCAN:
            break
        if next_start - start - 4 < LEAST_BYTES.get(marker, 0):
            kept += jpeg[end:start]
            end = next_start
    return kept + jpeg[end:] if end else jpeg


def has_every_scan(jpeg: bytes) -> bool:
    """Return whether a file's scans, complete or not, bring all bits of all coefficients."""
    missing = -1
    for marker, start, end in _segments(jpeg):
        segment = jpeg[start + 4 : end]
        if marker in FRAMES:
            missing = 64 * segment[5]
        elif marker == SCAN:
            first, last, bits = segment[-3:]
            missing -= segment[0] * (last - first + 1) if bits & 15 == 0 else 0
    return missing == 0


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker, start and end; what lies between them is skipped."""
    start = len(SIGNATURE)
    while (start := jpeg.find(b"\xff", start)) >= 0 and start + 4 < len(jpeg):
        marker, length = jpeg[start + 1], int.from_bytes(jpeg[start + 2 : start + 4], "big")
        if marker in NO_SEGMENT:
            start += 1
            continue
        yield marker, start, start + 2 + length
        start += 2 + length
