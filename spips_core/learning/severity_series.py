"""Severity series: photographs, each distorted at five levels from weak to strong."""

import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from spips_core.errors import DatasetError
from spips_core.learning.datasets import Example, list_photographs, read_image
from spips_core.learning.distortions import DISTORTIONS, NUM_LEVELS, Pixels, distort

MAX_PLACES = 8
"""Places tried in a photograph to find one that every level changes."""


class SeveritySeries(Dataset[Example]):
    """Squares cut from photographs, each with one kind of distortion at five rising levels.

    Nobody judged them: a stronger distortion should have a higher score. So all targets are zero.
    A photograph's file name is its series' reference.
    """

    def __init__(
        self, folder: str | Path, kinds: Sequence[str], *, num_series: int, side_px: int, seed: int
    ) -> None:
        """List the photographs, and choose the photograph and kind of each series, in turn.

        Raises:
            DatasetError: no photographs, or an unknown kind.
        """
        photos = list_photographs(folder)
        unknown = [kind for kind in kinds if kind not in DISTORTIONS]
        if unknown or not kinds:
            raise DatasetError(f"expected distortions among {list(DISTORTIONS)}, got {unknown}")
        self._side_px, self._seed = side_px, seed
        order = np.random.default_rng(seed).permutation(len(photos))
        # A photograph that serves several series gets a different kind in each.
        self.files = [photos[order[i % len(order)]] for i in range(num_series)]
        self.kinds = [kinds[(i + i // len(order)) % len(kinds)] for i in range(num_series)]
        self.references = [path.name for path in self.files]
        self.targets = np.zeros(num_series)

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        """Return a series, weak to strong; K = 5."""
        path, side_px = self.files[index], self._side_px
        photo = read_image(path).permute(1, 2, 0).numpy()
        height_px, width_px = sides = photo.shape[:2]
        if min(sides) < side_px:
            raise DatasetError(
                f"{path}: expected sides of at least {side_px} px, got {height_px} x {width_px}"
            )
        generator = np.random.default_rng((self._seed, index))
        for _ in range(MAX_PLACES):
            top, left = (int(generator.integers(0, side - side_px + 1)) for side in sides)
            cut = np.ascontiguousarray(photo[top : top + side_px, left : left + side_px])
            levels = self._distort(cut, index)
            # Where a level changes nothing, as in a black sky, the levels have no order.
            if not any(np.array_equal(a, b) for a, b in pairwise(levels)):
                break
        reference, *distorted = (torch.tensor(pixels).permute(2, 0, 1) for pixels in levels)
        return Example(reference, torch.stack(distorted), 0.0)

    def _distort(self, cut: Pixels, index: int) -> list[Pixels]:
        """Return the square itself, then every level of it, with the same random numbers."""
        kind, seed = self.kinds[index], zlib.crc32(f"{self._seed} {index}".encode())
        return [cut, *(distort(cut, kind, level, seed) for level in range(1, NUM_LEVELS + 1))]
