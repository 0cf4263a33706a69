"""What the model learns from and is judged on: rated pairs, BAPPS, severity series.

Every data set is a sequence of `Example`s: a reference, some distorted versions of it, and what
people (or the order of strengths) say about them.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spips_core.decode import decode_image
from spips_core.errors import DatasetError, ImageError
from spips_core.learning.distortions import DISTORTIONS, NUM_LEVELS, distort

TRIPLET_SPLITS = {
    "train": ("traditional", "cnn", "mix"),
    "val": ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"),
}
JND_SUBSETS = ("traditional", "cnn")
MAX_PIXELS = 1 << 27
"""Larger images are refused: one of them would take 400 MB."""
NUM_COLOURS = 3
NUM_QUARTERS = 4
MAX_PLACES = 8
"""How often a place is drawn in a photograph to find one that every level changes."""


@dataclass(frozen=True)
class Example:
    """One reference, its distorted versions, and a judgement.

    Attributes:
        reference: (3, H, W) uint8.
        distorted: (K, 3, H, W) uint8; K is 1 for a rated pair, 2 for a triplet, 5 for a series.
        target: dmos of a rated pair, preference of a triplet, share of "same"; 0 for a series.
    """

    reference: Tensor
    distorted: Tensor
    target: float


class Examples(Protocol):
    """Any of the data sets below.

    Attributes:
        targets: (N,), what `Example.target` says.
        references: (N,), which examples share a reference.
        kinds: (N,), the kind of distortion; "" where it is not told.
        files: every image file that examples are made of, in their order.
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
    """Return a sha256 over judgements, references, and the files' names, sizes and times.

    Args:
        examples: the data set; a missing file counts as such.

    Returns:
        64 hexadecimal digits; another data set, or one that was changed, has others.
    """
    sha256 = hashlib.sha256(examples.targets.tobytes())
    sha256.update(repr((examples.references, examples.kinds)).encode())
    for path in examples.files:
        stat = path.stat() if path.exists() else None
        stamp = (stat.st_size, stat.st_mtime_ns) if stat else None
        sha256.update(f"{path.name} {stamp}\n".encode())
    return sha256.hexdigest()


def read_image(path: str | Path) -> Tensor:
    """Read an image file as the pipeline does: see `spips_core.decode.decode_image`.

    So 16-bit images are accepted, as in scoring; their samples keep the high byte.

    Args:
        path: a file in one of `spips_core.decode.FORMATS`.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        DatasetError: the file is missing, cannot be read, or has more than `MAX_PIXELS`.
    """
    try:
        image = decode_image(Path(path).read_bytes(), MAX_PIXELS)
    except OSError as error:
        raise DatasetError(f"{path}: expected an image: {error}") from error
    except ImageError as error:
        raise DatasetError(f"{path}: {error}") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def list_photographs(folder: str | Path) -> list[Path]:
    """Return the .jpg and .png files of a folder, by name.

    Args:
        folder: the folder.

    Raises:
        DatasetError: there are none.
    """
    suffixes = (".jpg", ".jpeg", ".png")
    photos = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in suffixes)
    if not photos:
        raise DatasetError(f"{folder}: expected .jpg or .png photographs, got none")
    return photos


class RatedPairs(Dataset[Example]):
    """Pairs that people rated, from a list in Parquet or CSV; or their quarters.

    A few hundred ratings of a few pictures say little about how one picture compares with another.
    Its quarters, rated as the whole was, are more pictures to learn that from.

    Attributes:
        targets: (N,) float64, dmos: higher is worse, stretched to 0..100 over the list.
        references: (N,) str, the reference's path as listed: pairs are split by it.
        kinds: (N,) str, the column `distortion`; "" where there is none.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        reference: str = "reference",
        distorted: str = "distorted",
        quarters: bool = False,
    ) -> None:
        """Read and check the list.

        Args:
            path: .parquet or .csv with a column `mos` (higher is better) or `dmos` (higher is
                worse); relative image paths are relative to its folder.
            reference: column with the reference's path.
            distorted: column with the distorted image's path.
            quarters: give each pair's four quarters, with its rating, instead of the whole.

        Raises:
            DatasetError: it cannot be read, is empty, lacks a column, or a rating is no number.
        """
        self.path = Path(path)
        table = _read_table(self.path)
        rated = [name for name in ("mos", "dmos") if name in table.column_names]
        missing = [name for name in (reference, distorted) if name not in table.column_names]
        if missing or len(rated) != 1:
            raise DatasetError(
                f"{path}: expected columns {reference}, {distorted} and either mos or dmos, "
                f"got {', '.join(table.column_names)}"
            )
        if table.num_rows == 0:
            raise DatasetError(f"{path}: expected rated pairs, got none")
        ratings = _numbers(table, rated[0], self.path)
        spread = float(np.ptp(ratings))
        if spread == 0:
            raise DatasetError(f"{path}: expected different ratings, got {ratings[0]:g} only")
        worse = ratings - ratings.min() if rated == ["dmos"] else ratings.max() - ratings
        self._num_parts = NUM_QUARTERS if quarters else 1
        self.targets = (worse / spread * 100).repeat(self._num_parts)
        folder = self.path.parent
        listed, others = (_paths(table, name, self.path) for name in (reference, distorted))
        self._files = [(folder / r, folder / d) for r, d in zip(listed, others, strict=True)]
        self.files = [path for pair in self._files for path in pair]
        self.references = [name for name in listed for _ in range(self._num_parts)]
        kinds = table.column("distortion").to_pylist() if "distortion" in table.column_names else []
        kinds = [str(kind) for kind in kinds for _ in range(self._num_parts)]
        self.kinds = kinds or [""] * len(self.references)

    def __len__(self) -> int:
        """Return the number of pairs, or of quarters."""
        return len(self.references)

    def __getitem__(self, index: int) -> Example:
        """Return a pair at its own size, or a quarter of one."""
        number, part = divmod(index, self._num_parts)
        reference_path, distorted_path = self._files[number]
        reference, distorted = read_image(reference_path), read_image(distorted_path)
        if reference.shape != distorted.shape:
            raise DatasetError(
                f"{distorted_path}: expected the reference's size {_size(reference)}, "
                f"got {_size(distorted)}"
            )
        if self._num_parts == NUM_QUARTERS:
            reference, distorted = _quarter(reference, part), _quarter(distorted, part)
        return Example(reference, distorted[None], float(self.targets[index]))


def _quarter(image: Tensor, part: int) -> Tensor:
    height_px, width_px = image.shape[1] // 2, image.shape[2] // 2
    top, left = part // 2 * height_px, part % 2 * width_px
    return image[:, top : top + height_px, left : left + width_px]


def _size(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[2]}"


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    raise DatasetError(f"{path}: expected a .parquet or .csv file")


def _numbers(table: pa.Table, name: str, path: Path) -> NDArray[np.float64]:
    try:
        values = table.column(name).cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: expected numbers in {name}: {error}") from error
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise DatasetError(f"{path}: expected a number in {name}, row {row}, got {values[row]}")
    return np.asarray(values, np.float64)


def _paths(table: pa.Table, name: str, path: Path) -> list[str]:
    values: list[str] = table.column(name).to_pylist()
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise DatasetError(f"{path}: expected a path in {name}, row {row}, got {value!r}")
    return values


class Triplets(Dataset[Example]):
    """BAPPS two-alternative triplets in their real layout: ref/ p0/ p1/ *.png, judge/ *.npy.

    Attributes:
        targets: (N,) float64 in [0, 1], the share of people who preferred p1.
        references: (N,) str, which triplets share a reference: none do, so each its own.
    """

    def __init__(self, folder: str | Path) -> None:
        """List and check one subset, such as 2afc/train/cnn.

        Args:
            folder: the subset's folder.

        Raises:
            DatasetError: empty, unequal file stems, or a judgement outside [0, 1].
        """
        self.folder = Path(folder)
        images = ("ref", "p0", "p1")
        self._stems = _common_stems(self.folder, dict.fromkeys(images, ".png") | {"judge": ".npy"})
        self.targets = _shares(self.folder / "judge", self._stems)
        self.references = [f"{self.folder.name}/{stem}" for stem in self._stems]
        self.kinds = [""] * len(self._stems)
        self.files = [self.folder / name / f"{s}.png" for s in self._stems for name in images]

    def __len__(self) -> int:
        """Return the number of triplets."""
        return len(self._stems)

    def __getitem__(self, index: int) -> Example:
        """Return a triplet: K = 2."""
        reference, first, second = _read_equal(
            [self.folder / name / f"{self._stems[index]}.png" for name in ("ref", "p0", "p1")]
        )
        return Example(reference, torch.stack([first, second]), float(self.targets[index]))


class JustNoticeable(Dataset[Example]):
    """BAPPS pairs judged as same or different, in their real layout: p0/ p1/ *.png, same/ *.npy.

    Attributes:
        targets: (N,) float64 in [0, 1], the share of people who said "same".
        references: (N,) str, each pair its own.
    """

    def __init__(self, folder: str | Path) -> None:
        """List and check one subset, such as jnd/val/cnn.

        Args:
            folder: the subset's folder.

        Raises:
            DatasetError: empty, unequal file stems, or a share outside [0, 1].
        """
        self.folder = Path(folder)
        self._stems = _common_stems(self.folder, {"p0": ".png", "p1": ".png", "same": ".npy"})
        self.targets = _shares(self.folder / "same", self._stems)
        self.references = [f"{self.folder.name}/{stem}" for stem in self._stems]
        self.kinds = [""] * len(self._stems)
        self.files = [self.folder / n / f"{s}.png" for s in self._stems for n in ("p0", "p1")]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._stems)

    def __getitem__(self, index: int) -> Example:
        """Return a pair: K = 1."""
        reference, distorted = _read_equal(
            [self.folder / name / f"{self._stems[index]}.png" for name in ("p0", "p1")]
        )
        return Example(reference, distorted[None], float(self.targets[index]))


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
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise DatasetError(
                f"{path}: expected {_size(images[0])} as in {paths[0]}, got {_size(image)}"
            )
    return images


class SeveritySeries(Dataset[Example]):
    """Photographs, each spoiled by some kinds of distortion at five levels of known order.

    Attributes:
        kinds: (N,) str, the distortion of each severity series.
        references: (N,) str, the photograph's file name.
        targets: (N,) float64, zeros: the order is all that is known.
    """

    def __init__(
        self, folder: str | Path, kinds: Sequence[str], *, num_series: int, side_px: int, seed: int
    ) -> None:
        """List the photographs and choose photograph and kind of each severity series.

        Args:
            folder: of the photographs, .jpg or .png.
            kinds: names in `DISTORTIONS`, taken in turn.
            num_series: how many severity_series to make.
            side_px: side of the square cut out of each photograph, in pixels.
            seed: of places, and of what is random in the distortions.

        Raises:
            DatasetError: no photographs, or an unknown kind.
        """
        self._photos = list_photographs(folder)
        unknown = [kind for kind in kinds if kind not in DISTORTIONS]
        if unknown or not kinds:
            raise DatasetError(f"expected distortions among {list(DISTORTIONS)}, got {unknown}")
        self._side_px, self._seed = side_px, seed
        order = np.random.default_rng(seed).permutation(len(self._photos))
        # One photograph serves as many severity_series as it must, and meets other kinds each time.
        self._chosen = [int(order[i % len(order)]) for i in range(num_series)]
        self.kinds = [kinds[(i + i // len(order)) % len(kinds)] for i in range(num_series)]
        self.files = [self._photos[i] for i in self._chosen]
        self.references = [path.name for path in self.files]
        self.targets = np.zeros(num_series)

    def __len__(self) -> int:
        """Return the number of severity_series."""
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """Return a severity series: K = 5, weak to strong."""
        path = self._photos[self._chosen[index]]
        generator = np.random.default_rng((self._seed, index))
        photo = read_image(path).permute(1, 2, 0).numpy()
        height_px, width_px = photo.shape[:2]
        side_px = self._side_px
        if min(height_px, width_px) < side_px:
            raise DatasetError(f"{path}: expected sides of at least {side_px} px")
        seed = zlib.crc32(f"{self._seed} {index}".encode())
        for _ in range(MAX_PLACES):
            top = int(generator.integers(0, height_px - side_px + 1))
            left = int(generator.integers(0, width_px - side_px + 1))
            cut = np.ascontiguousarray(photo[top : top + side_px, left : left + side_px])
            levels = [cut] + [
                distort(cut, self.kinds[index], level, seed) for level in range(1, NUM_LEVELS + 1)
            ]
            # Where there is nothing to spoil, such as in a black sky, levels have no order.
            if not any(np.array_equal(a, b) for a, b in pairwise(levels)):
                break
        reference, *distorted = (torch.tensor(pixels).permute(2, 0, 1) for pixels in levels)
        return Example(reference, torch.stack(distorted), 0.0)
