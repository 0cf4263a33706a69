"""Image pairs that people rated, such as LIVE or TID2013, from a list in Parquet or CSV."""

from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spips_core.errors import DatasetError
from spips_core.learning.datasets import Example, describe_size, read_image

NUM_QUARTERS = 4


class RatedPairs(Dataset[Example]):
    """Rated pairs, or their quarters.

    A few hundred ratings of a few pictures teach little about how different pictures compare.
    Each quarter of a pair, with the rating of the whole, is one more picture to learn that from.

    Targets are DMOS, stretched to [0, 100] over the list; higher is worse. References are paths as
    listed. Kinds are the column `distortion`; "" without that column.

    Attributes:
        is_whole: whether the examples are whole pairs, not quarters.
        dmos: (N,), the ratings for the scale of the expected DMOS: as listed in a column `dmos`,
            the targets for a column `mos`.
    """

    def __init__(
        self, path: str | Path,
        *, reference: str = "reference", distorted: str = "distorted", quarters: bool = False,
    ) -> None:  # fmt: skip
        """Read and check the list, whose columns with images are `reference` and `distorted`.

        It is a .parquet or .csv with a column `mos` (higher is better) or `dmos` (higher is worse).
        Relative image paths start at its folder.

        Raises:
            DatasetError: the list cannot be read, is empty, lacks a column, or has a rating that is
                not a finite number.
        """
        self.path = Path(path)
        table = _read_table(self.path)
        self._num_parts = NUM_QUARTERS if quarters else 1
        self.is_whole = not quarters
        rating = _find_rating(table, (reference, distorted), self.path)
        ratings = _read_ratings(table, rating, self.path)
        self.targets = _stretch(ratings, rating).repeat(self._num_parts)
        self.dmos = ratings.repeat(self._num_parts) if rating == "dmos" else self.targets
        listed, others = (_paths(table, name, self.path) for name in (reference, distorted))
        self.files = [self.path.parent / p for p in chain(*zip(listed, others, strict=True))]
        has_kinds = "distortion" in table.column_names
        kinds = table.column("distortion").to_pylist() if has_kinds else [""] * len(listed)
        self.references = [name for name in listed for _ in range(self._num_parts)]
        self.kinds = [str(kind) for kind in kinds for _ in range(self._num_parts)]

    def __len__(self) -> int:
        """Return the number of pairs, or of quarters."""
        return len(self.references)

    def __getitem__(self, index: int) -> Example:
        """Return a pair at its own size, or a quarter of one; K = 1."""
        number, part = divmod(index, self._num_parts)
        paths = self.files[2 * number : 2 * number + 2]
        reference, distorted = map(read_image, paths)
        if reference.shape != distorted.shape:
            raise DatasetError(
                f"{paths[1]}: expected the reference's size {describe_size(reference)}, "
                f"got {describe_size(distorted)}"
            )
        if self._num_parts == NUM_QUARTERS:
            reference, distorted = _quarter(reference, part), _quarter(distorted, part)
        return Example(reference, distorted[None], float(self.targets[index]))


def _quarter(image: Tensor, part: int) -> Tensor:
    height_px, width_px = image.shape[1] // 2, image.shape[2] // 2
    top, left = part // 2 * height_px, part % 2 * width_px
    return image[:, top : top + height_px, left : left + width_px]


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    raise DatasetError(f"{path}: expected a .parquet or .csv file")


def _find_rating(table: pa.Table, image_columns: tuple[str, str], path: Path) -> str:
    """Return the column with the ratings, mos or dmos, once every column is there."""
    rated = [name for name in ("mos", "dmos") if name in table.column_names]
    if not set(image_columns) <= set(table.column_names) or len(rated) != 1:
        raise DatasetError(
            f"{path}: expected columns {', '.join(image_columns)} and either mos or dmos, "
            f"got {', '.join(table.column_names)}"
        )
    if table.num_rows == 0:
        raise DatasetError(f"{path}: expected rated pairs, got none")
    return rated[0]


def _read_ratings(table: pa.Table, rating: str, path: Path) -> NDArray[np.float64]:
    """Return the ratings as listed; they are finite, and not all equal."""
    try:
        values = table.column(rating).cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise DatasetError(f"{path}: expected numbers in {rating}: {error}") from error
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise DatasetError(f"{path}: expected a number in {rating}, row {row}, got {values[row]}")
    if np.ptp(values) == 0:
        raise DatasetError(f"{path}: expected different ratings, got {values[0]:g} only")
    return np.asarray(values, np.float64)


def _stretch(values: NDArray[np.float64], rating: str) -> NDArray[np.float64]:
    """Return the ratings turned so that higher is worse, and stretched to [0, 100]."""
    worse = values - values.min() if rating == "dmos" else values.max() - values
    return np.asarray(worse / np.ptp(values) * 100, np.float64)


def _paths(table: pa.Table, name: str, path: Path) -> list[str]:
    values: list[str] = table.column(name).to_pylist()
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise DatasetError(f"{path}: expected a path in {name}, row {row}, got {value!r}")
    return values
