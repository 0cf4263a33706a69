"""Open a manifest on the driver: check its columns, types and ids before anything runs."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import and_
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet
from fsspec import AbstractFileSystem

from pipeline.runs.errors import ContractError, FaultError, did_you_mean
from pipeline.runs.schema import RESERVED_COLUMNS, is_bytes, is_image_struct, is_text
from pipeline.runs.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    content_id,
    is_inside,
    store_error,
)
from pipeline.runs.uris import redact
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.files import MAKE_ONE, ManifestFiles, Values, find_manifest_files
from pipeline.scoring.manifest.promotion import check_values, merge_schemas
from pipeline.scoring.resources import FOOTER_THREADS, ID_ROWS_PER_READ, READ_BYTES

MAX_LISTED = 5
"""Repeated ids that an error message lists."""
LARGEST_NESTED_BYTES = 2**31 - 2**24
"""Ray reads larger row groups with nested columns in a way that drops `Manifest.values`."""


@dataclass(frozen=True)
class Manifest:
    """A valid manifest.

    Attributes:
        fs: its store.
        paths: its Parquet files, sorted.
        schema: its columns.
        pair_id_column: name of the id column.
        image_columns: names of the reference and distorted columns.
        num_rows: number of pairs.
        id_hashes: (num_rows,) uint64, sorted: a hash of each pair_id.
        fingerprint: sha256 over the files' names and contents.
        folder: the folder that holds all its files; None if the config names a file or a glob.
        left_out: other files in that folder, without those whose names begin with _ or a dot.
        values: columns that the names of folders or a table give, by path; empty without them.
        source: a line for people on a table or on such names; "" without them.
        version: of a table, its version or snapshot.
    """

    fs: AbstractFileSystem
    paths: list[str]
    schema: pa.Schema
    pair_id_column: str
    image_columns: tuple[str, str]
    num_rows: int
    id_hashes: npt.NDArray[np.uint64]
    fingerprint: str
    folder: str | None
    left_out: list[str]
    values: Mapping[str, Values] = field(default_factory=dict)
    source: str = ""
    version: int | None = None

    @cached_property
    def rows(self) -> pyarrow.dataset.Dataset:
        """Its rows."""
        return _open_rows(self.fs, self.paths, self.values, self.schema)

    def read(self, max_rows: int) -> Iterator[pa.Table]:
        """Yield its rows, at most max_rows at a time, or fewer if they hold large images."""
        footer = next(self.rows.get_fragments()).metadata
        num_bytes = sum(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups))
        at_once = READ_BYTES * max(1, footer.num_rows) // max(1, num_bytes)
        batches = self.rows.to_batches(
            batch_size=min(max_rows, max(1, at_once)), batch_readahead=1, fragment_readahead=0
        )
        for batch in batches:
            yield pa.Table.from_batches([batch])

    def complete(self, path: str, rows: pa.Table, names: Sequence[str]) -> pa.Table:
        """Return columns of rows of a file as `rows` has them, which may be absent in the file."""
        schema = pa.schema([self.schema.field(name) for name in names])
        columns = []
        for column in schema:
            value = self.values.get(path, {}).get(column.name, pa.scalar(None, column.type))
            has_column = column.name in rows.column_names
            columns.append(
                rows[column.name].cast(column.type) if has_column else pa.repeat(value, len(rows))
            )
        return pa.table(columns, schema=schema)

    def covers(self, uri: str) -> bool:
        """Return whether a URI is inside the manifest's folder, or inside one linked from it."""
        if self.folder is None:
            return False
        folders = {str(folder) for path in self.paths for folder in PurePosixPath(path).parents}
        inner = [folder for folder in folders if f"{folder}/".startswith(f"{self.folder}/")]
        return any(is_inside(uri, self.fs, folder) for folder in inner)


def open_manifest(config: ManifestConfig) -> Manifest:
    """Find a manifest's files, and check that it has rows and that its columns and ids are valid.

    Raises:
        ContractError: it is not valid; every problem found is listed.
    """
    uri = redact(config.uri)
    try:
        files = find_manifest_files(config)
        fs, paths = files.fs, files.paths
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            footers = list(pool.map(lambda path: _read_footer(fs, path), paths))
            contents = list(pool.map(lambda path: content_id(fs, path), paths))
    except (*STORE_ERRORS, pa.ArrowException) as error:
        raise _unreadable(uri, error) from error

    schemas = [footer.schema.to_arrow_schema().remove_metadata() for footer in footers]
    num_rows = sum(footer.num_rows for footer in footers)
    schema, problems, unclear = merge_schemas(files, schemas)
    image_columns, image_problems = _choose_image_columns(config, schema)
    problems += image_problems + _check_schema(config.pair_id_column, image_columns, schema)
    problems += _check_row_groups(files, schema, footers)
    if num_rows == 0:
        problems.append(f"manifest.uri: expected at least one row, got an empty manifest at {uri}")
    id_hashes = np.empty(0, np.uint64)
    try:
        if not problems:
            rows = _open_rows(fs, paths, files.values, schema)
            problems += check_values(files, schemas, rows)
        fields = [field for field in schema if field.name == config.pair_id_column]
        if fields and is_text(fields[0].type) and config.pair_id_column not in unclear:
            ids = _open_rows(fs, paths, files.values, pa.schema(fields))
            id_hashes, id_problems = _check_ids(ids, config.pair_id_column)
            problems += id_problems
    except (*STORE_ERRORS, pa.ArrowException) as error:
        raise _unreadable(uri, error) from error
    if problems:
        raise ContractError(*problems)
    return Manifest(
        fs, paths, schema, config.pair_id_column, image_columns, num_rows, id_hashes,
        _fingerprint(files, schema, contents), files.folder, files.left_out, files.values,
        files.source, files.version,
    )  # fmt: skip


def _fingerprint(files: ManifestFiles, schema: pa.Schema, contents: Sequence[str]) -> str:
    """Return a sha256 over all that decides which rows the files hold."""
    many = len(files.paths) > 1
    entries = [
        f"{path.removeprefix(files.base) if many else ''} {content}"
        for path, content in zip(files.paths, contents, strict=True)
    ]
    if files.values:
        entries += [
            repr([(k, v.as_py()) for k, v in values.items()])
            for _, values in sorted(files.values.items())
        ]
    if files.table is not None:
        entries.append(str(schema))
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def _open_rows(
    fs: AbstractFileSystem, paths: Sequence[str], values: Mapping[str, Values], schema: pa.Schema
) -> pyarrow.dataset.Dataset:
    """Return files as one data set: types are promoted, and each file's values are columns."""
    store, parquet = arrow_filesystem(fs), pyarrow.dataset.ParquetFileFormat()
    fragments = []
    for path in paths:
        known = [
            pc.field(name) == value if value.is_valid else pc.field(name).is_null()
            for name, value in values.get(path, {}).items()
        ]
        holds = reduce(and_, known) if known else None
        fragments.append(parquet.make_fragment(path, store, partition_expression=holds))
    return pyarrow.dataset.FileSystemDataset(fragments, schema, parquet, store)


def _check_ids(
    rows: pyarrow.dataset.Dataset, column: str
) -> tuple[npt.NDArray[np.uint64], list[str]]:
    """Return the sorted hashes of the ids, and their problems."""
    hashes, num_null = hash_ids(rows, column)
    nulls = [f"manifest: expected no null {column!r}, got {num_null}"] if num_null else []
    return hashes, nulls + _check_repeats(rows, column, hashes)


def _unreadable(uri: str, error: Exception) -> ContractError | FaultError:
    return store_error(f"manifest.uri: {uri} cannot be read", error)


def hash_ids(rows: pyarrow.dataset.Dataset, column: str) -> tuple[npt.NDArray[np.uint64], int]:
    """Return a hash of each id, sorted; it takes 8 bytes per row for ids of any length.

    Two lists with the same sorted hashes hold the same ids, possibly in a different order.

    Returns:
        (num_ids,) uint64, and the number of rows with a null id.
    """
    hashes = np.empty(rows.count_rows(), np.uint64)
    num_ids = 0
    for ids in _scan_ids(rows, column):
        hashed = hash_array(ids.drop_null())
        hashes[num_ids : num_ids + len(hashed)] = hashed
        num_ids += len(hashed)
    num_null = len(hashes) - num_ids
    hashes = hashes[:num_ids]
    hashes.sort()
    return hashes, num_null


@dataclass(frozen=True)
class KeepIds:
    """A stage that keeps the rows with given ids.

    Attributes:
        column: name of the id column.
        ids: ids of the rows to keep.
    """

    column: str
    ids: pa.Array

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the kept rows."""
        return rows.filter(pc.is_in(rows.column(self.column), value_set=self.ids))


def hash_array(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Return a hash of each id, in their order."""
    values = ids.to_numpy(zero_copy_only=False).astype(object)
    hashes: npt.NDArray[np.uint64] = pd.util.hash_array(values, categorize=False)
    return hashes


def _scan_ids(rows: pyarrow.dataset.Dataset, column: str) -> Iterator[pa.Array]:
    for batch in rows.to_batches(columns=[column], batch_size=ID_ROWS_PER_READ, batch_readahead=2):
        yield batch.column(0)


def _read_footer(fs: AbstractFileSystem, path: str) -> pyarrow.parquet.FileMetaData:
    try:
        with fs.open(path, "rb") as file:
            return pyarrow.parquet.read_metadata(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"expected a Parquet file at {path}: {error}; {MAKE_ONE}") from error


def _choose_image_columns(
    config: ManifestConfig, schema: pa.Schema
) -> tuple[tuple[str, str], list[str]]:
    """Return the image columns and the problems: the config's columns, else URIs, else bytes."""
    chosen, problems = [], []
    for image, named in (
        ("reference", config.reference_column),
        ("distorted", config.distorted_column),
    ):
        candidates = [f"{image}_uri", f"{image}_bytes"]
        present = [name for name in candidates if name in schema.names]
        if named is None and len(present) == 2:
            problems.append(
                f"manifest.{image}_column: expected {candidates[0]} or {candidates[1]}, got both; "
                "choose one with this setting"
            )
        chosen.append(named or (present[0] if present else candidates[0]))
    return (chosen[0], chosen[1]), problems


def _check_row_groups(
    files: ManifestFiles, schema: pa.Schema, footers: Sequence[pyarrow.parquet.FileMetaData]
) -> list[str]:
    """Return the problem of nested columns in large row groups, which Ray reads without values."""
    if not files.values or not any(map(pa.types.is_nested, schema.types)):
        return []
    for path, footer in zip(files.paths, footers, strict=True):
        groups = map(footer.row_group, range(footer.num_row_groups))
        largest = max((group.total_byte_size for group in groups), default=0)
        if largest > LARGEST_NESTED_BYTES:
            return [
                f"manifest.uri: expected row groups of at most {LARGEST_NESTED_BYTES:,} bytes in "
                "files with nested columns below folders named key=value or in a table with "
                f"partitions, got {largest:,} in {redact(path)}; write smaller row groups"
            ]
    return []


def _check_schema(
    pair_id_column: str, image_columns: tuple[str, str], schema: pa.Schema
) -> list[str]:
    """Return the problems of columns and types."""

    def is_image(type_: pa.DataType) -> bool:
        return is_text(type_) or is_bytes(type_) or is_image_struct(type_)

    problems = []
    for setting, column, is_right, expected in (
        ("pair_id_column", pair_id_column, is_text, "string"),
        ("reference_column", image_columns[0], is_image, "string or binary"),
        ("distorted_column", image_columns[1], is_image, "string or binary"),
    ):
        if column not in schema.names:
            listed = ", ".join(schema.names)
            problems.append(
                f"manifest.{setting}: expected a column {column!r}, got {listed}"
                f"{did_you_mean(column, schema.names)}"
            )
        elif not all(is_right(field.type) for field in schema if field.name == column):
            got = schema.types[schema.names.index(column)]
            problems.append(f"manifest.{setting}: expected {column!r} to be {expected}, got {got}")
    if len({pair_id_column, *image_columns}) < 3:
        problems.append(
            f"manifest: expected three different columns, got {[pair_id_column, *image_columns]}"
        )
    problems += [
        f"manifest: column {name!r} is reserved for the results; rename it"
        for name in schema.names
        if name in RESERVED_COLUMNS
    ]
    return problems


def _check_repeats(
    rows: pyarrow.dataset.Dataset, column: str, id_hashes: npt.NDArray[np.uint64]
) -> list[str]:
    """Return a problem if ids repeat; reads the ids again only if hashes repeat."""
    repeated = np.unique(id_hashes[1:][id_hashes[1:] == id_hashes[:-1]])
    if not len(repeated):
        return []
    counts: Counter[str] = Counter()
    for ids in _scan_ids(rows, column):
        present = ids.drop_null()
        counts.update(present.filter(pa.array(np.isin(hash_array(present), repeated))).to_pylist())
    twice = sorted(id_ for id_, count in counts.items() if count > 1)
    if not twice:  # different ids with the same hash
        return []
    shown = ", ".join(redact(repr(id_)) for id_ in twice[:MAX_LISTED])
    more = ", ..." if len(twice) > MAX_LISTED else ""
    return [f"manifest: expected unique {column!r}, got {len(twice)} more than once: {shown}{more}"]
