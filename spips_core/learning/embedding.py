"""Embed a data set with a frozen trunk: compute the means of every quality map once, keep them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from spips_core.checkpoint import known_pair
from spips_core.config import STREAMS
from spips_core.errors import DatasetError, ImageError
from spips_core.learning.datasets import Examples, digest_of_images
from spips_core.model import SPIPS

QualityMeans = dict[str, list[Tensor]]
"""Means of quality maps, by stream tensors (..., C_l): one for each set of maps of one size."""


@torch.no_grad()
def quality_means(model: SPIPS, reference: Tensor, distorted: Tensor) -> QualityMeans:
    """Return the means, by stream (1, K, C_l), of a reference (3, H, W) and K versions of it."""
    means = model.quality_means(reference[None].expand_as(distorted), distorted)
    return {name: [q[None].cpu() for q in qs] for name, qs in means.items()}


def make_embedder(model: SPIPS) -> SPIPS:
    """Return a model for `embed`: the given trunk with all three streams.

    Models that differ only in their streams or fusion then share what the cache keeps.
    """
    embedder = SPIPS(replace(model.config, streams=STREAMS)).eval()
    embedder.trunk.load_state_dict(model.trunk.state_dict())
    embedder.trunk.set_precision(model.trunk.precision)
    return embedder


def embed(
    model: SPIPS, examples: Examples, indices: Sequence[int],
    *, cache: Path | None, report: Callable[[int, int], None],
) -> QualityMeans:  # fmt: skip
    """Return the quality means of some examples, from the cache if it has them.

    The model comes from `make_embedder`. `report` takes the numbers of finished and all examples.

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
    means = {
        name: [torch.cat(taps) for taps in zip(*(row[name] for row in rows), strict=True)]
        for name in rows[0]
    }
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        packed = {f"{name}.{i}": q for name, qs in means.items() for i, q in enumerate(qs)}
        safetensors.torch.save_file(packed, unfinished)
        unfinished.rename(path)
    return means


def _unpack(packed: dict[str, Tensor]) -> QualityMeans:
    means: QualityMeans = {}
    for key in sorted(packed, key=lambda key: (key.split(".")[0], int(key.split(".")[1]))):
        means.setdefault(key.split(".")[0], []).append(packed[key])
    return means


def _fingerprint(model: SPIPS, examples: Examples, indices: Sequence[int]) -> str:
    """Return a name for the means: equal names mean equal numbers.

    It depends on the trunk, on the means of a known pair (so that a change in the code of the maps
    shows), on the examples and their files, and on the pixels of a few examples, at least one for
    each kind of distortion.
    """
    sha256 = hashlib.sha256(f"{model.trunk.digest()} {list(indices)}".encode())
    sha256.update(digest_of_images(examples).encode())
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
