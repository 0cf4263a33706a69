"""Makes Pillow's BMP decoder fatal; Python runs this at its start if this folder is on its path.

What it does to its process depends on the image's width; every other image decodes as always.
"""

import ctypes
import os
from typing import Any

from PIL import BmpImagePlugin

SEGFAULT_PX, HANG_PX, HOARD_PX, ABORT_PX = 201, 202, 203, 204

_load = BmpImagePlugin.BmpImageFile.load


def _fatal_load(image: Any) -> Any:
    if image.width == SEGFAULT_PX:
        ctypes.string_at(0)
    if image.width == HANG_PX:
        ctypes.PyDLL(None).sleep(3600)  # and nothing else in its process runs
    if image.width == HOARD_PX:
        hoard = []
        while True:
            hoard.append(bytes(1 << 26))
    if image.width == ABORT_PX:
        os.abort()
    return _load(image)


BmpImagePlugin.BmpImageFile.load = _fatal_load  # type: ignore[method-assign]
