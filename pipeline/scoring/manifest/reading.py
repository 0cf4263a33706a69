"""Read a manifest's rows with Ray Data."""

import ray
from ray.data import Dataset
from ray.data._internal.datasource.parquet_datasource import ParquetDatasource

from pipeline.runs.storage import arrow_filesystem
from pipeline.scoring.manifest.opening import Manifest


def read_rows(manifest: Manifest) -> Dataset:
    """Return a manifest's rows, which nothing reads yet."""
    if manifest.values:
        # As `ray.data.read_delta` does: `read_parquet` takes no values from elsewhere.
        source = ParquetDatasource.from_pyarrow_dataset(manifest.rows)
        rows: Dataset = ray.data.read_datasource(source)
        return rows
    return ray.data.read_parquet(
        manifest.paths,
        filesystem=arrow_filesystem(manifest.fs),
        schema=manifest.schema,
        partitioning=None,
        file_extensions=None,  # the plan chose the files, and any name is allowed
    )
