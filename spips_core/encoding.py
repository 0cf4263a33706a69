"""What a score needs of each image alone. One encoding serves all comparisons of its image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """What a score needs of N images.

    Attributes:
        pyramid: the images at five scales with reflected borders, finest first:
            (N, 3, H_s + 2 BORDER_PX, W_s + 2 BORDER_PX) in [0, 1].
        features: the trunk's features, normalised as the config says: L tensors (N, C_l, H_l, W_l).
    """

    pyramid: list[Tensor]
    features: list[Tensor]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pyramid[0])

    def __getitem__(self, which: slice | Tensor) -> "Encoding":
        """Return a slice of the images, or the images at the given indices."""
        pyramid, features = ([t[which] for t in ts] for ts in (self.pyramid, self.features))
        return Encoding(pyramid, features)

    @classmethod
    def join(cls, parts: Sequence["Encoding"]) -> "Encoding":
        """Return the images of several encodings in order; all have one size."""
        if len(parts) == 1:
            return parts[0]
        pyramid, features = (
            [torch.cat(tensors) for tensors in zip(*of_parts, strict=True)]
            for of_parts in ([p.pyramid for p in parts], [p.features for p in parts])
        )
        return cls(pyramid, features)

    def repeat(self, num_images: int) -> "Encoding":
        """Return one image `num_images` times; only the pyramid is copied."""
        return Encoding(
            [t.repeat(num_images, 1, 1, 1) for t in self.pyramid],
            [t.expand(num_images, -1, -1, -1) for t in self.features],
        )
