"""What a frozen trunk makes of a data set: the means of every quality map, made once and kept."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from spips_core.checkpoint import known_pair
from spips_core.errors import DatasetError, ImageError
from spips_core.learning.datasets import Examples, digest_of_examples
from spips_core.model import SPIPS

Quality = dict[str, list[Tensor]]
"""Means of quality maps by stream, each tensor (N, K, C_l): N references, K distorted images."""


@torch.no_grad()
def quality_means(model: SPIPS, reference: Tensor, distorted: Tensor) -> Quality:
    """Return the means of the quality maps of one reference with its distorted versions.

    Args:
        model: whose trunk and streams decide the maps.
        reference: (3, H, W) uint8.
        distorted: (K, 3, H, W) uint8.

    Returns:
        By stream, tensors (1, K, C_l).
    """
    means = model.quality_means(reference[None].expand_as(distorted), distorted)
    return {name: [q[None].cpu() for q in qs] for name, qs in means.items()}


def embed(
    model: SPIPS,
    examples: Examples,
    indices: Sequence[int],
    *,
    cache: Path | None,
    report: Callable[[int, int], None],
) -> Quality:
    """Return the quality means of some examples, from the cache if they are there.

    Args:
        model: with all three streams, its trunk frozen.
        examples: the data set.
        indices: which examples, in order.
        cache: folder to keep them in; None keeps nothing.
        report: called with how many are done, and of how many.

    Returns:
        By stream, tensors (len(indices), K, C_l) float32.

    Raises:
        DatasetError: an image cannot be read, or is too small.
    """
    path = cache / f"{_fingerprint(model, examples, indices)}.safetensors" if cache else None
    if path and path.exists():
        report(len(indices), len(indices))
        return _unpack(safetensors.torch.load_file(path))
    rows = []
    for number, index in enumerate(indices, start=1):
        example = examples[index]
        try:
            rows.append(quality_means(model, example.reference, example.distorted))
        except ImageError as error:
            raise DatasetError(f"{examples.references[index]}: {error}") from error
        report(number, len(indices))
    quality = {
        name: [torch.cat([row[name][tap] for row in rows]) for tap in range(len(rows[0][name]))]
        for name in rows[0]
    }
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        packed = {f"{name}.{i}": q for name, qs in quality.items() for i, q in enumerate(qs)}
        safetensors.torch.save_file(packed, unfinished)
        unfinished.rename(path)
    return quality


def _unpack(packed: dict[str, Tensor]) -> Quality:
    quality: Quality = {}
    for key in sorted(packed, key=lambda key: (key.split(".")[0], int(key.split(".")[1]))):
        quality.setdefault(key.split(".")[0], []).append(packed[key])
    return quality


def _fingerprint(model: SPIPS, examples: Examples, indices: Sequence[int]) -> str:
    """Return a name for what `embed` would compute: same name, same numbers.

    It holds the trunk, what the maps make of a known pair (so that a change in their code shows),
    the examples with their files, and the pixels of a few, each kind of distortion among them.
    """
    sha256 = hashlib.sha256(f"{model.trunk.digest()} {list(indices)}".encode())
    sha256.update(digest_of_examples(examples).encode())
    reference, distorted = known_pair()
    for means in quality_means(model, reference[0], distorted).values():
        for q in means:
            sha256.update(q.numpy().tobytes())
    first_of_kind = {examples.kinds[index]: index for index in reversed(indices)}
    for index in sorted({*first_of_kind.values(), indices[len(indices) // 2], indices[-1]}):
        example = examples[index]
        sha256.update(example.reference.numpy().tobytes())
        sha256.update(example.distorted.numpy().tobytes())
    return sha256.hexdigest()[:32]
