"""What the C library does with memory that is given back."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""


def keep_freed_memory(kept_bytes: int) -> None:
    """Have the C library keep what images and tensors give back, where it is glibc.

    Else the large ones come as fresh pages, each of which the kernel zeroes when it is first
    touched: on small images that takes as long as scoring them.

    Args:
        kept_bytes: freed memory that the process keeps at most, and the largest piece it is kept
            for.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, kept_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, kept_bytes)
        # Other threads would have arenas of their own, which keep no piece of more than 64 MiB.
        libc.mallopt(_M_ARENA_MAX, 1)
