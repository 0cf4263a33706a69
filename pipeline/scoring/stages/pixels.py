"""Loaded pixels as torch's images."""

import warnings
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor


def images_of(rows: pa.Table, column: str, indices: Sequence[int]) -> list[Tensor]:
    """Return loaded images without copying them; nobody may write into them.

    Args:
        rows: as the load stage makes them, with height_px and width_px.
        column: reference_pixels or distorted_pixels.
        indices: the images' rows.

    Returns:
        Tensors (3, H, W) uint8. Channels are innermost in memory, as decoded.
    """
    sizes = [rows.column(name) for name in ("height_px", "width_px")]
    pixels = rows.column(column)
    images = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        for index in indices:
            size = [of_rows[index].as_py() for of_rows in sizes]
            image = np.frombuffer(pixels[index].as_buffer(), np.uint8).reshape(*size, 3)
            images.append(torch.from_numpy(image).permute(2, 0, 1))
    return images
