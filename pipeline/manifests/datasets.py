"""Read data sets: Parquet files, and folders that Hugging Face's `save_to_disk` wrote."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.manifests.source import ROWS_PER_TABLE, Source
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import arrow_filesystem
from pipeline.scoring.manifest.files import read_keys

READ_BYTES = 2**22
"""What is read of a column at once."""


def open_parquet(
    fs: AbstractFileSystem, paths: Sequence[str], uri: str, folder: str, base: str
) -> Source:
    """Open Parquet files with the same columns, and columns of texts from folders named key=value.

    Args:
        fs: their store.
        paths: the files.
        uri: the source, for messages.
        folder: path of the folder that holds them.
        base: the same, as a URI.

    Raises:
        ContractError: their columns differ, or a column is both in the files and in the folders.
    """
    store = arrow_filesystem(fs)
    expected, keys = read_keys("source.uri", folder, paths)
    schemas = [pyarrow.parquet.read_schema(path, filesystem=store) for path in paths]
    _check_equal(schemas, paths)
    schema = schemas[0].remove_metadata()
    both = set(expected) & set(schema.names)
    if both:
        raise ContractError(
            f"source.uri: expected column {min(both)!r} in the names of folders or in the files, "
            f"got it in both: {paths[0]}"
        )
    for key in expected:
        schema = schema.append(pa.field(key, pa.string()))

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        in_files = [name for name in columns if name not in expected]
        for path in paths:
            with pyarrow.parquet.ParquetFile(
                path, filesystem=store, buffer_size=READ_BYTES, pre_buffer=False
            ) as file:
                for batch in file.iter_batches(ROWS_PER_TABLE, columns=in_files):
                    rows = pa.table(batch)
                    for key, value in keys.get(path, {}).items():
                        rows = rows.append_column(key, pa.array([value] * len(batch), pa.string()))
                    yield rows.select(list(columns))

    return Source(uri, base, schema, read)


def open_saved(fs: AbstractFileSystem, folder: str, uri: str) -> Source:
    """Open a folder that `datasets.Dataset.save_to_disk` wrote: Arrow streams and state.json.

    Args:
        fs: its store.
        folder: its path.
        uri: the same, as a URI.

    Raises:
        ContractError: state.json does not describe it, or the files' columns differ.
    """
    try:
        state = json.loads(fs.cat_file(f"{folder}/state.json"))
        paths = [f"{folder}/{entry['filename']}" for entry in state["_data_files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(
            f"source.uri: expected state.json with _data_files, got another one at {uri}"
        ) from error
    if state.get("_indices_data_files"):
        raise ContractError(
            "source.uri: expected rows in their order, got a data set with indices; save it again "
            f"after flatten_indices(): {uri}"
        )
    if not paths:
        raise ContractError(f"source.uri: expected rows, got none at {uri}")
    schemas = []
    for path in paths:
        with _open_stream(fs, path) as stream:
            schemas.append(stream.schema)
    _check_equal(schemas, paths)

    def read(columns: Sequence[str]) -> Iterator[pa.Table]:
        for path in paths:
            with _open_stream(fs, path) as stream:
                for batch in stream:
                    chosen = batch.select(list(columns))
                    for start in range(0, len(chosen), ROWS_PER_TABLE):
                        yield pa.table(chosen.slice(start, ROWS_PER_TABLE))

    return Source(uri, uri, schemas[0].remove_metadata(), read)


def _open_stream(fs: AbstractFileSystem, path: str) -> Any:
    """Open a stream; a local one is mapped, so that its images need no memory of their own."""
    is_local = isinstance(fs, LocalFileSystem)
    return pyarrow.ipc.open_stream(pa.memory_map(path) if is_local else fs.open(path, "rb"))


def _check_equal(schemas: Sequence[pa.Schema], paths: Sequence[str]) -> None:
    for schema, path in zip(schemas, paths, strict=True):
        if not schema.equals(schemas[0]):
            raise ContractError(
                f"source.uri: expected the columns of {paths[0]} in every file, got others in "
                f"{path}: {_describe(schema)}, not {_describe(schemas[0])}"
            )


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
