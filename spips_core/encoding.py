"""What a score needs of each image alone, made once for all comparisons of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """What a score needs of N images, whatever each of them is compared with.

    Attributes:
        scales: the images at five scales, finest first, with reflected borders:
            (N, 3, H_s + 2 BORDER_PX, W_s + 2 BORDER_PX) in [0, 1].
        features: the trunk's, normalised as the config says: L tensors (N, C_l, H_l, W_l).
    """

    scales: list[Tensor]
    features: list[Tensor]

    def __len__(self) -> int:
        """Return how many images these are."""
        return len(self.scales[0])

    def __getitem__(self, which: slice | Tensor) -> "Encoding":
        """Return some of the images, in the given order, as often as they are named."""
        return Encoding([one[which] for one in self.scales], [one[which] for one in self.features])

    @classmethod
    def join(cls, parts: Sequence["Encoding"]) -> "Encoding":
        """Return the images of several, all of one size, in their order."""
        if len(parts) == 1:
            return parts[0]
        scales, features = (
            [torch.cat(tensors) for tensors in zip(*of_parts, strict=True)]
            for of_parts in ([p.scales for p in parts], [p.features for p in parts])
        )
        return cls(scales, features)

    def repeat(self, num_images: int) -> "Encoding":
        """Return one image as so many, the scales in memory of their own."""
        return Encoding(
            [one.repeat(num_images, 1, 1, 1) for one in self.scales],
            [one.expand(num_images, -1, -1, -1) for one in self.features],
        )
