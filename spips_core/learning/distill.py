"""Train this project's own small trunk from scratch to see differences as a large trunk does.

The student does not copy the teacher's weights. At each tap it learns two things about the
teacher's features: the distance between the two images of a pair at each position, which Eq. (6)
sums, and the cosine between any two positions. Features are scaled to length one first, so the
student may have fewer channels than the teacher.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from spips_core.image_ops import to_unit_range, unit_length
from spips_core.learning.datasets import list_photographs, read_image
from spips_core.learning.distortions import NUM_LEVELS, distort
from spips_core.trunk import Trunk

NUM_POSITIONS = 512
NUM_PHOTOS_KEPT = 2000
"""Decoded photographs that each loader keeps in memory; one of 400 x 500 px takes 0.6 MB."""
SMALLEST_SQUARE = 1e-6
WEIGHT_DECAY = 1e-4
MAX_GRADIENT_NORM = 1.0


def tap_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how much the student's features differ from the teacher's at one tap, >= 0.

    It is the relative error of the distances within pairs, plus that of the cosines between random
    positions. Features (2 N, C, H, W) are of N references, then of their distorted versions.
    """
    ours, theirs = unit_length(student), unit_length(teacher)
    distance, expected = _pair_distances(ours), _pair_distances(theirs)
    pairs = (distance - expected).abs().mean() / expected.mean()
    cosines, expected = _cosines(ours, theirs)
    return pairs + (cosines - expected).square().mean() / expected.var()


def _pair_distances(features: Tensor) -> Tensor:
    reference, distorted = features.chunk(2)
    return ((reference - distorted).square().sum(dim=1) + SMALLEST_SQUARE).sqrt()


def _cosines(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines between random positions of all images, the same positions in both."""
    rows = [features.permute(0, 2, 3, 1).flatten(0, 2) for features in (ours, theirs)]
    drawn = torch.randint(len(rows[0]), (NUM_POSITIONS,))
    vectors, expected = (row[drawn] for row in rows)
    return vectors @ vectors.T, expected @ expected.T


class DistortedCrops(Dataset[tuple[Tensor, Tensor]]):
    """Random crops of photographs, each with a version that is distorted at random."""

    def __init__(
        self, folder: str | Path, kinds: Sequence[str], *, length: int, side_px: int, seed: int
    ) -> None:
        """List the photographs; there must be some. The length is the number of pairs."""
        self._photos = list_photographs(folder)
        self._kinds, self._length, self._side_px, self._seed = kinds, length, side_px, seed

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return reference and distorted, (3, side_px, side_px) uint8."""
        generator = np.random.default_rng((self._seed, index))
        path = self._photos[int(generator.integers(len(self._photos)))]
        photo = _read_photo(path)
        # Half of the crops come at half size, so that features work at more than one scale.
        shrink = int(generator.integers(1, 3)) if min(photo.size) >= 2 * self._side_px else 1
        pixels = np.asarray(photo.reduce(shrink))
        side_px = self._side_px
        top, left = (int(generator.integers(0, side - side_px + 1)) for side in pixels.shape[:2])
        pixels = pixels[top : top + side_px, left : left + side_px]
        if generator.random() < 0.5:
            pixels = pixels[:, ::-1]
        pixels = np.ascontiguousarray(pixels)
        kind = self._kinds[int(generator.integers(len(self._kinds)))]
        level = int(generator.integers(1, NUM_LEVELS + 1))
        distorted = distort(pixels, kind, level, int(generator.integers(1 << 31)))
        return torch.tensor(pixels).permute(2, 0, 1), torch.tensor(distorted).permute(2, 0, 1)


@lru_cache(maxsize=NUM_PHOTOS_KEPT)
def _read_photo(path: Path) -> Image.Image:
    """Decode a photograph, or take it from memory: decoding takes as long as distorting a crop."""
    return Image.fromarray(read_image(path).permute(1, 2, 0).numpy())


class Distillation:
    """A student's training: one pass over the pairs, resumable after any step.

    The student learns from normalized images, on which it learns faster. At the end,
    `Trunk.fold_normalization` makes its first layer take images in [0, 1].

    `step` counts the finished steps of `num_steps`.
    """

    def __init__(
        self, student: Trunk, teacher: Trunk, pairs: Dataset[tuple[Tensor, Tensor]],
        *, batch_size: int, learning_rate: float, num_loaders: int,
    ) -> None:  # fmt: skip
        """Make the optimizer.

        The student is trained in place; its taps must have the places of the teacher's. The pairs
        are uint8, all of one size. `learning_rate` is the highest, after a tenth of the one cycle.
        """
        self.student = student.requires_grad_(True)
        self._teacher = teacher.eval()
        self._teacher.features.to(memory_format=torch.channels_last)  # faster on CPUs
        self._pairs, self._batch_size, self._num_loaders = pairs, batch_size, num_loaders
        self.step, self.num_steps = 0, len(pairs) // batch_size  # type: ignore[arg-type]
        self._optimizer = torch.optim.AdamW(
            student.parameters(), learning_rate, weight_decay=WEIGHT_DECAY
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, learning_rate, total_steps=self.num_steps, pct_start=0.1
        )

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])

    def run(self) -> Iterator[list[float]]:
        """Train on the remaining pairs, and yield the loss at each tap after each step."""
        remaining = range(self.step * self._batch_size, self.num_steps * self._batch_size)
        loader = DataLoader(
            Subset(self._pairs, remaining), self._batch_size, num_workers=self._num_loaders
        )
        for reference, distorted in loader:
            torch.manual_seed(self.step)  # a resumed training draws the same positions
            images = to_unit_range(torch.cat([reference, distorted]), torch.float32)
            with torch.no_grad():
                expected = self._teacher(images)
            found = self.student.taps(self.student.normalized(images))
            taps = zip(found, expected, strict=True)
            losses = [tap_loss(ours, theirs) for ours, theirs in taps]
            self._optimizer.zero_grad()
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRADIENT_NORM)
            self._optimizer.step()
            self._schedule.step()
            self.step += 1
            yield [loss.item() for loss in losses]
