"""Load a few of a manifest's rows as a test, before anything is scored."""

import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet

from pipeline.scoring.config import ImagesConfig
from pipeline.scoring.load import PairLoader
from pipeline.scoring.manifest import Manifest

SAMPLE_ROWS = 8
SAMPLE_BYTES = 1 << 24
"""Most bytes of a row group that are read for its rows: a group can hold gigabytes of images."""


def load_sample(
    manifest: Manifest, rules: ImagesConfig, pass_through: pa.Schema
) -> list[tuple[str, str]]:
    """Return status and error of a few random rows.

    Args:
        manifest: a valid one.
        rules: which images are accepted.
        pass_through: schema of the manifest's columns in the results.
    """
    choice = random.Random(0)
    files = Counter(choice.choices(manifest.paths, k=min(SAMPLE_ROWS, manifest.num_rows)))
    rows = pa.concat_tables(_read(manifest, path, num, choice) for path, num in files.items())
    loader = PairLoader(rules, manifest.image_columns, pass_through, pixels_per_block=1)
    loaded = pa.concat_tables(loader.load_apart(rows))
    return list(zip(loaded["status"].to_pylist(), loaded["error"].to_pylist(), strict=True))


def _read(manifest: Manifest, path: str, num_rows: int, choice: random.Random) -> pa.Table:
    """Return random rows of a file, from the start of one of its row groups."""
    # Without `pre_buffer`, pages are read one by one.
    with (
        manifest.fs.open(path, "rb") as opened,
        pyarrow.parquet.ParquetFile(opened, buffer_size=1 << 20, pre_buffer=False) as file,
    ):
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        lengths = [group.num_rows for group in groups]
        if not sum(lengths):
            return manifest.schema.empty_table()
        (index,) = choice.choices(range(len(groups)), lengths)
        bytes_per_row = max(1, groups[index].total_byte_size // lengths[index])
        near = min(lengths[index], max(num_rows, SAMPLE_BYTES // bytes_per_row))
        wanted = sorted(choice.sample(range(near), min(num_rows, near)))
        batches, start = [], 0
        for batch in file.iter_batches(max(1, near // SAMPLE_ROWS), [index], use_threads=False):
            here = [row - start for row in wanted if start <= row < start + len(batch)]
            batches.append(batch.take(pa.array(here, pa.int64())))
            start += len(batch)
            if start > wanted[-1]:
                break
        return pa.Table.from_batches(batches)
