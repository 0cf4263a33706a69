"""What a score needs of each image alone. One encoding serves all comparisons of its image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spips_core.batch_invariance import trunk_batches
from spips_core.errors import ImageError
from spips_core.image_ops import unit_length
from spips_core.quality_maps.ms_ssim import image_pyramid
from spips_core.trunk import Trunk


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


def check_comparable(reference: Encoding, distorted: Encoding) -> None:
    """Raise ImageError unless both encodings hold equally many images of one size."""
    shapes = tuple(reference.pyramid[0].shape), tuple(distorted.pyramid[0].shape)
    if shapes[0] != shapes[1]:
        raise ImageError(
            "expected as many reference and distorted images, of one size, got tensors "
            f"{shapes[0]} and {shapes[1]} (with borders)"
        )


def encode_parts(
    images: Tensor,
    lengths: Sequence[int],
    trunk: Trunk | None,
    *,
    unit_features: bool,
    batch_invariant: bool,
) -> list[Encoding]:
    """Return the encodings of images, in parts. All images share the trunk's batches.

    Args:
        images: (N, 3, H, W), values in [0, 1].
        lengths: number of images in each part; they add up to N.
        trunk: makes the features, Phi_CNN of Eqs. (4)-(5); None makes none.
        unit_features: scale each feature vector to length one.
        batch_invariant: see `spips_core.batch_invariance`.

    Raises:
        ValueError: the lengths do not add up to N.
    """
    if sum(lengths) != len(images) or min(lengths, default=0) < 0:
        raise ValueError(f"expected lengths >= 0 that add up to {len(images)}, got {lengths}")
    # Each part has memory of its own: a view would make compiled kernels compile anew.
    pyramids = [image_pyramid(part.contiguous()) for part in torch.split(images, list(lengths))]
    if trunk is None:
        return [Encoding(pyramid, []) for pyramid in pyramids]

    def features(batch: Tensor) -> list[Tensor]:
        # Differences of bfloat16 features need the images' precision.
        taps = [tap.to(batch.dtype) for tap in trunk(batch)]
        return [unit_length(tap) for tap in taps] if unit_features else taps

    batches = trunk_batches(images) if batch_invariant else (images,)
    joined = [
        taps[0] if len(batches) == 1 else torch.cat(taps)
        for taps in zip(*map(features, batches), strict=True)
    ]
    parts = [torch.split(tap[: len(images)], list(lengths)) for tap in joined]
    return [Encoding(scales, list(taps)) for scales, *taps in zip(pyramids, *parts, strict=True)]
