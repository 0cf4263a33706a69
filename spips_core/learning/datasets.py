"""Data sets as sequences of examples: a reference, its distorted versions, and a judgement.

`rated_pairs`, `bapps` and `severity_series` say where the examples come from.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spips_core.decode import decode_image
from spips_core.errors import DatasetError, ImageError

MAX_PIXELS = 1 << 27
"""Larger images are refused: one of them would take 400 MB."""


@dataclass(frozen=True)
class Example:
    """One reference, its K distorted versions, and a judgement.

    Attributes:
        reference: (3, H, W) uint8.
        distorted: (K, 3, H, W) uint8. K is 1 for a rated or just noticeable pair, 2 for a triplet,
            5 for a severity series.
        target: DMOS of a rated pair in [0, 100]; the share of people who preferred the second image
            of a triplet, or who called a pair "same", in [0, 1]; 0 for a severity series; the
            jury's rank of each of the K images, in (0, 1].
    """

    reference: Tensor
    distorted: Tensor
    target: float | NDArray[np.float64]


class Examples(Protocol):
    """A data set.

    Attributes:
        targets: (N,), the target of each example; (N, K) from a jury.
        references: (N,), the name of each example's reference.
        kinds: (N,), the kind of distortion; "" where it is unknown.
        files: every image file that the examples are made of, in order.
    """

    targets: NDArray[np.float64]
    references: list[str]
    kinds: list[str]
    files: list[Path]

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int) -> Example:
        """Return an example."""


def digest_of_examples(examples: Examples) -> str:
    """Return a sha256 over the targets and what `digest_of_images` covers."""
    return hashlib.sha256(
        examples.targets.tobytes() + digest_of_images(examples).encode()
    ).hexdigest()


def digest_of_images(examples: Examples) -> str:
    """Return a sha256 over references, kinds, and the files' names and contents.

    It stays the same where data are copied to. A file may be missing.
    """
    sha256 = hashlib.sha256(repr((examples.references, examples.kinds)).encode())
    for path in examples.files:
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        sha256.update(f"{path.name} {content}\n".encode())
    return sha256.hexdigest()


def fold_of(
    references: Sequence[str], num_folds: int, among: Sequence[str] = ()
) -> NDArray[np.intp]:
    """Return every example's fold: references are sorted by name and dealt out in turn.

    `among` names references of other sets to deal out with these. A picture that several sets share
    is then in the same fold in all of them.
    """
    everyone = np.unique(np.asarray([*references, *among]))
    return np.asarray(np.searchsorted(everyone, np.asarray(references)) % num_folds, np.intp)


def read_image(path: str | Path) -> Tensor:
    """Read an image file, (3, H, W) uint8 RGB, as scoring does: see `spips_core.decode`.

    So 16-bit images are accepted; their samples keep the high byte.

    Raises:
        DatasetError: the file is missing, cannot be decoded, or has more than `MAX_PIXELS`.
    """
    try:
        image = decode_image(Path(path).read_bytes(), MAX_PIXELS)
    except OSError as error:
        raise DatasetError(f"{path}: expected an image: {error}") from error
    except ImageError as error:
        raise DatasetError(f"{path}: {error}") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def describe_size(image: Tensor) -> str:
    """Return an image's height and width for a message, such as "96 x 128"."""
    return f"{image.shape[-2]} x {image.shape[-1]}"


def list_photographs(folder: str | Path) -> list[Path]:
    """Return the .jpg and .png files of a folder, by name; no files are a DatasetError."""
    suffixes = (".jpg", ".jpeg", ".png")
    photos = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in suffixes)
    if not photos:
        raise DatasetError(f"{folder}: expected .jpg or .png photographs, got none")
    return photos
