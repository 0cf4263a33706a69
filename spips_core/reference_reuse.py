"""Reuse of a reference: a reference that consecutive pairs share is encoded once.

Manifests often list many distorted versions of one reference in a row. Encoding an image (its
pyramid and the trunk's pass) is most of a score's cost, so encoding a shared reference once nearly
halves the work. `PairEncoder` compares each reference with the one before it, pixel by pixel, in a
batch and across batches.
"""

from collections.abc import Sequence
from itertools import compress, pairwise

import torch
from torch import Tensor

from spips_core.encoding import Encoding
from spips_core.model import SPIPS


class PairEncoder:
    """Encode pairs batch by batch; a reference that equals the one before is encoded once."""

    def __init__(self, model: SPIPS, *, batch_invariant: bool) -> None:
        """Start without a reference to reuse.

        Args:
            model: the model that encodes, on its own device.
            batch_invariant: as for `SPIPS.encode`.
        """
        self._model = model
        self._batch_invariant = batch_invariant
        self._last_pixels: Tensor | None = None
        self._last_references: Encoding | None = None
        self._is_one = False  # whether all of the last references are the same image

    @property
    def has_reference(self) -> bool:
        """Whether references of the last batch are kept for the next one."""
        return self._last_references is not None

    def forget(self) -> None:
        """Drop the kept references, and with them the memory of the last batch."""
        self._last_pixels = self._last_references = None

    def encode(
        self, references: Sequence[Tensor], distorted: Sequence[Tensor]
    ) -> tuple[Encoding, Encoding]:
        """Return the encodings of both sides of N pairs.

        Args:
            references: N images (3, H, W) uint8 of one size, on the CPU.
            distorted: N images of the same size.

        Raises:
            ImageError: sides below 96 px.
        """
        # Channels innermost, as decoded images lie in memory.
        references, distorted = (
            [image.permute(1, 2, 0) for image in images] for images in (references, distorted)
        )
        last = self._last_pixels
        is_new = [last is None or not torch.equal(last, references[0])]
        is_new += [not torch.equal(one, other) for one, other in pairwise(references)]
        if is_new[0]:
            self.forget()  # make room
        num_new = sum(is_new)
        images = self._stack([*compress(references, is_new), *distorted])
        lengths = [length for length in (num_new, len(distorted)) if length]
        *new, encoded = self._model.encode_parts(
            images.permute(0, 3, 1, 2),
            lengths,
            batch_invariant=self._batch_invariant,
        )
        kept = self._last_references
        if kept and self._is_one and not num_new and len(kept) >= len(distorted):
            return kept[: len(distorted)], encoded
        joined = Encoding.join([kept[-1:], *new] if kept else new)
        self._is_one = len(joined) == 1
        if self._is_one:
            joined = joined.repeat(len(distorted))
        elif num_new < len(distorted):
            positions = torch.tensor([0, *is_new[1:]]).cumsum(dim=0)
            joined = joined[positions.to(self._device)]
        # A copy: a view would keep the whole batch in memory.
        self._last_pixels, self._last_references = references[-1].clone(), joined
        return joined, encoded

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _stack(self, images: list[Tensor]) -> Tensor:
        """Return the images as one tensor on the model's device, copied once on the CPU."""
        if self._device.type != "cuda":
            return torch.stack(images)
        # Only from pinned memory does a copy to the GPU run beside other work.
        pinned = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=True)
        return torch.stack(images, out=pinned).to(self._device, non_blocking=True)
