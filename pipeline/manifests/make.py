"""Make a manifest: check the output, open the source, write the rows whole or not at all."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa
import pyarrow.parquet
from fsspec import AbstractFileSystem

from pipeline.manifests.columns import arrange, choose_columns, describe_left_out
from pipeline.manifests.config import MakeManifestConfig, ManifestOutputConfig
from pipeline.manifests.folders import pair_folders
from pipeline.manifests.frames import sample_frames
from pipeline.manifests.open_source import open_source
from pipeline.manifests.source import list_first, open_place
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import STORE_ERRORS, check_writable, describe, open_whole, store_error
from pipeline.runs.uris import redact

ROW_GROUP_BYTES = 2**26
ROW_GROUP_ROWS = 100_000
"""A row group is written when it has this many bytes or rows."""


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        uri: the manifest, absolute.
        num_rows: its rows.
        rows_by_model: number of rows by value of the column model; empty without that column.
        notes: what was left out, one line each.
    """

    uri: str
    num_rows: int
    rows_by_model: dict[str, int]
    notes: tuple[str, ...]


@dataclass
class _Counts:
    """Rows written so far."""

    num_rows: int = 0
    by_model: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.Table) -> None:
        """Count rows."""
        self.num_rows += len(rows)
        if "model" in rows.column_names:
            self.by_model.update(map(str, rows.column("model").to_pylist()))


def make_manifest(config: MakeManifestConfig) -> Summary:
    """Write the manifest that the settings describe.

    Raises:
        ContractError: the source or the output is wrong; nothing was written.
        FaultError: a store is away.
    """
    fs, path, uri = _open_output(config.output)
    if config.source.uri is None:
        rows, notes = pair_folders(config.folders)
        if config.folders.frames_every_s is not None:
            every_s, overwrite = config.folders.frames_every_s, config.output.overwrite
            rows = sample_frames(rows, every_s, uri, overwrite=overwrite)
        counts = _write(fs, path, [rows])
    else:
        given = config.source.uri
        with _reading(given):
            source = open_source(config.source, given, uri)
        columns = choose_columns(config.source, source.schema, source.uri)
        notes = [*source.notes, *describe_left_out(columns)]
        counts = _write(fs, path, _read(given, arrange(source, columns)))
    return Summary(uri, counts.num_rows, dict(counts.by_model), tuple(notes))


def _open_output(config: ManifestOutputConfig) -> tuple[AbstractFileSystem, str, str]:
    """Return the store, the path and the URI of the manifest to write.

    Raises:
        ContractError: it exists, or cannot be written.
        FaultError: its store is away.
    """
    fs, path, uri = open_place("output.uri", config.uri)
    try:
        if fs.isdir(path):
            raise ContractError(f"output.uri: expected a file, got a folder: {uri}")
        if fs.exists(path) and not config.overwrite:
            raise ContractError(
                f"output.uri: expected a new file, or --overwrite, got one that exists: {uri}"
            )
        check_writable(uri.rpartition("/")[0] or "/")
    except STORE_ERRORS as error:
        raise store_error(f"output.uri: {uri} cannot be written", error) from error
    return fs, path, uri


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Name the source in what Arrow and stores raise."""
    try:
        yield
    except (*STORE_ERRORS, pa.ArrowException) as error:
        raise store_error(f"source.uri: {redact(uri)} cannot be read", error) from error


def _read(uri: str, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    with _reading(uri):
        yield from tables


def _write(fs: AbstractFileSystem, path: str, tables: Iterable[pa.Table]) -> _Counts:
    """Write a manifest whole, and return its number of rows, in all and by model.

    Raises:
        ContractError: ids repeat; nothing was written.
    """
    counts = _Counts()
    ids: set[str] = set()
    repeated: dict[str, None] = {}
    # If this fails, the writer ends before the file is removed.
    with open_whole(fs, path) as file, ExitStack() as stack:
        writer = None
        for group in _row_groups(tables):
            if writer is None:
                writer = stack.enter_context(_open_writer(file, group.schema))
            writer.write_table(group)
            counts.add(group)
            for id_ in group.column("pair_id").to_pylist():
                if id_ in ids:
                    repeated[id_] = None
                ids.add(id_)
        if repeated:
            raise ContractError(
                f"pair_id: expected unique ids, got {len(repeated):,} more than once: "
                f"{list_first(repeated)}; source.pair_id_column names a column of ids"
            )
    return counts


def _open_writer(file: IO[bytes], schema: pa.Schema) -> pyarrow.parquet.ParquetWriter:
    try:
        return pyarrow.parquet.ParquetWriter(file, schema)
    except pa.ArrowNotImplementedError as error:  # such as {} in each row
        raise ContractError(
            f"source.uri: expected columns that Parquet can hold, got {describe(error)}"
        ) from error


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows in larger tables, of a bounded size."""
    some: list[pa.Table] = []
    num_rows = num_bytes = 0
    for table in tables:
        some.append(table)
        num_rows += len(table)
        num_bytes += table.nbytes
        if num_rows >= ROW_GROUP_ROWS or num_bytes >= ROW_GROUP_BYTES:
            yield pa.concat_tables(some)
            some, num_rows, num_bytes = [], 0, 0
    if num_rows:
        yield pa.concat_tables(some)
