"""BAPPS (Zhang et al. 2018), or a data set in its layout: 64 px patches that people compared."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spips_core.errors import DatasetError
from spips_core.learning.datasets import Example, describe_size, read_image


class BappsSubset(Dataset[Example]):
    """One subset: folders of images, and one of judgements, with the same file stems.

    Targets are shares of people. No two examples share a reference; their kinds are all "".
    """

    def __init__(self, folder: str | Path, images: Sequence[str], judgements: str) -> None:
        """List and check the folders of .png images, the reference's first, and of .npy shares.

        Raises:
            DatasetError: the folder is empty, the file stems differ, or a judgement is not one
                number in [0, 1].
        """
        folder = Path(folder)
        stems = _common_stems(folder, dict.fromkeys(images, ".png") | {judgements: ".npy"})
        self.targets = _shares(folder / judgements, stems)
        self.references = [f"{folder.name}/{stem}" for stem in stems]
        self.kinds = [""] * len(stems)
        self.files = [folder / name / f"{stem}.png" for stem in stems for name in images]
        self._num_images = len(images)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.references)

    def __getitem__(self, index: int) -> Example:
        """Return an example."""
        start = index * self._num_images
        reference, *distorted = _read_equal(self.files[start : start + self._num_images])
        return Example(reference, torch.stack(distorted), float(self.targets[index]))


def open_triplets(folder: str | Path) -> BappsSubset:
    """List a 2AFC subset, such as 2afc/train/cnn: ref/ p0/ p1/ *.png, judge/ *.npy.

    K = 2; targets are the shares of people who preferred p1. For its errors see `BappsSubset`.
    """
    return BappsSubset(folder, ("ref", "p0", "p1"), "judge")


def open_just_noticeable(folder: str | Path) -> BappsSubset:
    """List a JND subset, such as jnd/val/cnn: p0/ p1/ *.png, same/ *.npy.

    K = 1; targets are the shares of people who said "same". For its errors see `BappsSubset`.
    """
    return BappsSubset(folder, ("p0", "p1"), "same")


def _common_stems(folder: Path, suffixes: dict[str, str]) -> list[str]:
    """Return the file stems that all folders must share."""
    stems = {name: {p.stem for p in (folder / name).glob(f"*{s}")} for name, s in suffixes.items()}
    everything = set().union(*stems.values())
    if not everything:
        expected = ", ".join(f"{name}/*{suffix}" for name, suffix in suffixes.items())
        raise DatasetError(f"{folder}: expected files {expected}, got none")
    problems = [
        f"{folder / name}: missing {stem}{suffixes[name]}"
        for name in suffixes
        for stem in sorted(everything - stems[name])[:1]
    ]
    if problems:
        raise DatasetError(f"expected the same file names in each folder; {'; '.join(problems)}")
    return sorted(everything)


def _shares(folder: Path, stems: Sequence[str]) -> NDArray[np.float64]:
    shares = np.empty(len(stems))
    for index, stem in enumerate(stems):
        path = folder / f"{stem}.npy"
        try:
            share = float(np.load(path, allow_pickle=False).reshape(-1)[0])
        except (OSError, ValueError, IndexError, EOFError, TypeError) as error:
            raise DatasetError(f"{path}: expected one number in a .npy file: {error}") from error
        if not 0 <= share <= 1:
            raise DatasetError(f"{path}: expected a share in [0, 1], got {share:g}")
        shares[index] = share
    return shares


def _read_equal(paths: Sequence[Path]) -> list[Tensor]:
    """Read images that must be of one size."""
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise DatasetError(
                f"{path}: expected {describe_size(images[0])} as in {paths[0]}, "
                f"got {describe_size(image)}"
            )
    return images
