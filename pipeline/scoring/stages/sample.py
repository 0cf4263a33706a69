"""Load a few rows of a manifest before a run starts, to see whether its images can be loaded."""

import random
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from pipeline.runs.uris import is_local
from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.images.contents import sources_of
from pipeline.scoring.manifest.opening import Manifest
from pipeline.scoring.stages.load import PairLoader

SIZES = ("height_px", "width_px")
SAMPLE_ROWS = 8
SAMPLE_BYTES = 1 << 24
"""Most bytes of a row group that are read for its rows: a group can hold gigabytes of images."""


@dataclass(frozen=True)
class Sample:
    """A few rows that were loaded as a test.

    Attributes:
        outcomes: status and error of each.
        pixels_per_pair: mean pixels (H x W) at which those that could be loaded are scored; None if
            there are none.
        is_local: whether all its images are in the manifest or on this machine's disks.
    """

    outcomes: list[tuple[str, str]]
    pixels_per_pair: float | None
    is_local: bool


def load_sample(manifest: Manifest, rules: ImagesConfig, pass_through: pa.Schema) -> Sample:
    """Load a few random rows.

    Args:
        manifest: a valid one.
        rules: which images are accepted.
        pass_through: schema of the manifest's columns in the results.
    """
    choice = random.Random(0)
    files = Counter(choice.choices(manifest.paths, k=min(SAMPLE_ROWS, manifest.num_rows)))
    rows = pa.concat_tables(_read_some(manifest, path, num, choice) for path, num in files.items())
    needed = [
        f for f in pass_through if f.name in (manifest.pair_id_column, *manifest.image_columns)
    ]
    loader = PairLoader(rules, manifest.image_columns, pa.schema(needed), pixels_per_block=1)
    loaded = pa.concat_tables(loader.load_apart(rows))
    outcomes = zip(loaded["status"].to_pylist(), loaded["error"].to_pylist(), strict=True)
    pixels = pc.mean(pc.multiply(*(loaded[name].cast(pa.int64()) for name in SIZES))).as_py()
    cells = (cell for name in manifest.image_columns for cell in sources_of(rows.column(name)))
    return Sample(list(outcomes), pixels, all(not isinstance(c, str) or is_local(c) for c in cells))


def _read_some(manifest: Manifest, path: str, num_rows: int, choice: random.Random) -> pa.Table:
    """Return ids and images of random rows of a file, from the start of one of its row groups."""
    # Without `pre_buffer`, pages are read one by one.
    with (
        manifest.fs.open(path, "rb") as opened,
        pyarrow.parquet.ParquetFile(opened, buffer_size=1 << 20, pre_buffer=False) as file,
    ):
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        lengths = [group.num_rows for group in groups]
        names = (manifest.pair_id_column, *manifest.image_columns)
        columns = [name for name in names if name in file.schema_arrow.names]
        if not sum(lengths):
            return manifest.complete(path, file.schema_arrow.empty_table().select(columns), names)
        (index,) = choice.choices(range(len(groups)), lengths)
        bytes_per_row = max(1, groups[index].total_byte_size // lengths[index])
        near = min(lengths[index], max(num_rows, SAMPLE_BYTES // bytes_per_row))
        wanted = sorted(choice.sample(range(near), min(num_rows, near)))
        batches, start = [], 0
        some = max(1, near // SAMPLE_ROWS)
        for batch in file.iter_batches(some, [index], columns, use_threads=False):
            here = [row - start for row in wanted if start <= row < start + len(batch)]
            # First complete them: Arrow cannot take from views.
            rows = manifest.complete(path, pa.table(batch), names)
            batches.append(rows.take(pa.array(here, pa.int64())))
            start += len(batch)
            if start > wanted[-1]:
                break
        return pa.concat_tables(batches)
