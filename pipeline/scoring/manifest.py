"""Open a manifest on the driver: check its columns, types and ids before anything runs."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet
from fsspec import AbstractFileSystem

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.schema import RESERVED_COLUMNS, is_bytes, is_text
from pipeline.runs.storage import (
    STORE_ERRORS,
    arrow_filesystem,
    content_id,
    find_files,
    is_broken_link,
    is_inside,
    open_store,
    store_error,
)
from pipeline.runs.uris import redact
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.resources import FOOTER_THREADS, ID_ROWS_PER_READ

MAX_LISTED = 5
"""Repeated ids that an error message lists."""
MAKE_ONE = "`spips manifest` makes a manifest of tables, lists and folders of images"
EXPORT = "write the rows of its current version as Parquet files"
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
"""What the names of a folder's Parquet files end in, in lower or upper case."""


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
        fs, root = open_store(config.uri)
        if table := table_format(fs, root):
            raise ContractError(
                f"manifest.uri: expected Parquet files, got {table} table at {uri}, among whose "
                f"files are deleted rows; {EXPORT}"
            )
        base, paths, left_out = _find_files(fs, root)
        if not paths:
            raise ContractError(
                f"manifest.uri: expected Parquet files, got none at {uri}; {MAKE_ONE}"
            )
        broken = [path for path in paths if is_broken_link(fs, path)]
        if broken:  # to leave it out would score a part of the pairs
            raise ContractError(
                *(
                    f"manifest.uri: expected a file, got a link to nothing: {redact(path)}"
                    for path in broken
                )
            )
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            footers = list(pool.map(lambda path: _read_footer(fs, path), paths))
            contents = list(pool.map(lambda path: content_id(fs, path), paths))
    except (*STORE_ERRORS, pa.ArrowException) as error:
        raise _unreadable(uri, error) from error

    schema = footers[0].schema.to_arrow_schema().remove_metadata()
    num_rows = sum(footer.num_rows for footer in footers)
    image_columns, problems = _choose_image_columns(config, schema)
    problems += _check_folders(base, paths)
    problems += _check_schema(config.pair_id_column, image_columns, schema)
    for path, footer in zip(paths[1:], footers[1:], strict=True):
        problems += _compare_schemas(schema, footer.schema.to_arrow_schema(), paths[0], path)
    if num_rows == 0:
        problems.append(f"manifest.uri: expected at least one row, got an empty manifest at {uri}")
    id_hashes, id_problems = _check_ids(fs, paths, footers, config.pair_id_column, uri)
    problems += id_problems
    if problems:
        raise ContractError(*problems)
    names = [path.removeprefix(base) for path in paths] if len(paths) > 1 else [""]
    entries = "\n".join(f"{name} {id_}" for name, id_ in zip(names, contents, strict=True))
    return Manifest(
        fs, paths, schema, config.pair_id_column, image_columns, num_rows, id_hashes,
        hashlib.sha256(entries.encode()).hexdigest(), root if fs.isdir(root) else None,
        left_out,
    )  # fmt: skip


def _check_ids(
    fs: AbstractFileSystem, paths: Sequence[str], footers: Sequence[pyarrow.parquet.FileMetaData],
    column: str, uri: str,
) -> tuple[npt.NDArray[np.uint64], list[str]]:  # fmt: skip
    """Return the sorted hashes of the ids, and the problems of ids that can be read."""
    schemas = [footer.schema.to_arrow_schema() for footer in footers]
    can_read = all(len({*s.names}) == len(s.names) and column in s.names for s in schemas)
    types = {schema.field(column).type for schema in schemas} if can_read else set()
    if len(types) != 1 or not all(map(is_text, types)):
        return np.empty(0, np.uint64), []  # the problem of the columns is listed already
    try:
        hashes, num_null = hash_ids(fs, paths, column)
        nulls = [f"manifest: expected no null {column!r}, got {num_null}"] if num_null else []
        return hashes, nulls + _check_repeats(fs, paths, column, hashes)
    except (*STORE_ERRORS, pa.ArrowException) as error:
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> ContractError | FaultError:
    return store_error(f"manifest.uri: {uri} cannot be read", error)


def hash_ids(
    fs: AbstractFileSystem, paths: Sequence[str], column: str
) -> tuple[npt.NDArray[np.uint64], int]:
    """Return a hash of each id, sorted; it takes 8 bytes per row for ids of any length.

    Two lists with the same sorted hashes hold the same ids, possibly in a different order.

    Returns:
        (num_ids,) uint64, and the number of rows with a null id.
    """
    rows = _open_dataset(fs, paths)
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


def _open_dataset(fs: AbstractFileSystem, paths: Sequence[str]) -> pyarrow.dataset.Dataset:
    return pyarrow.dataset.dataset(list(paths), filesystem=arrow_filesystem(fs), format="parquet")


def _scan_ids(rows: pyarrow.dataset.Dataset, column: str) -> Iterator[pa.Array]:
    for batch in rows.to_batches(columns=[column], batch_size=ID_ROWS_PER_READ, batch_readahead=2):
        yield batch.column(0)


def _find_files(fs: AbstractFileSystem, root: str) -> tuple[str, list[str], list[str]]:
    """Return the folder of a path, folder or glob, its Parquet files, and its other files."""
    wildcard = None if fs.exists(root) else re.search(r"[*?\[]", root)
    if wildcard:
        base = root[: wildcard.start()].rpartition("/")[0]
        found = [path for path in fs.glob(root) if not fs.isdir(path)]
    elif fs.isdir(root):
        base, found = root, find_files(fs, root)
    else:  # a single file can have any name
        return root.rpartition("/")[0], [root], []
    visible = sorted(
        path
        for path in found
        if not any(part.startswith(("_", ".")) for part in path.removeprefix(base).split("/"))
    )
    if wildcard:  # chooses names itself
        return base, visible, []
    chosen = [path for path in visible if path.lower().endswith(PARQUET_SUFFIXES)]
    return base, chosen, sorted(set(visible) - set(chosen))


def table_format(fs: AbstractFileSystem, root: str) -> str | None:
    """Return whose log a folder has; only a table's log says which of its files are valid."""
    if fs.isdir(f"{root}/_delta_log"):
        return "a Delta"
    return "an Iceberg" if fs.glob(f"{root}/metadata/*.metadata.json") else None


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


def _check_folders(base: str, paths: Sequence[str]) -> list[str]:
    partitioned = [path for path in paths if "=" in path.removeprefix(base).rpartition("/")[0]]
    if not partitioned:
        return []
    return [
        "manifest.uri: expected all columns inside the files, got folders named key=value "
        f"({partitioned[0]}), whose keys would be lost; {MAKE_ONE}"
    ]


def _check_schema(
    pair_id_column: str, image_columns: tuple[str, str], schema: pa.Schema
) -> list[str]:
    """Return the problems of columns and types."""

    def is_image(type_: pa.DataType) -> bool:
        return is_text(type_) or is_bytes(type_)

    problems = []
    for setting, column, is_right, expected in (
        ("pair_id_column", pair_id_column, is_text, "string"),
        ("reference_column", image_columns[0], is_image, "string or binary"),
        ("distorted_column", image_columns[1], is_image, "string or binary"),
    ):
        if column not in schema.names:
            listed = ", ".join(schema.names)
            problems.append(f"manifest.{setting}: expected a column {column!r}, got {listed}")
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
    problems += [
        f"manifest: expected column {field.name!r} as string or binary, got {field.type}"
        for field in schema
        if pa.types.is_string_view(field.type) or pa.types.is_binary_view(field.type)
    ]
    repeated = {name for name in schema.names if schema.names.count(name) > 1}
    problems += [
        f"manifest: expected one column {name!r}, got several" for name in sorted(repeated)
    ]
    return problems


def _compare_schemas(schema: pa.Schema, other: pa.Schema, path: str, other_path: str) -> list[str]:
    expected = {field.name: field.type for field in schema}
    got = {field.name: field.type for field in other}
    return [
        f"manifest: expected column {name!r} as {expected.get(name, 'absent')} (as in {path}), "
        f"got {got.get(name, 'absent')} in {other_path}"
        for name in sorted(expected.keys() | got.keys())
        if expected.get(name) != got.get(name)
    ]


def _check_repeats(
    fs: AbstractFileSystem, paths: Sequence[str], column: str, id_hashes: npt.NDArray[np.uint64]
) -> list[str]:
    """Return a problem if ids repeat; reads the ids again only if hashes repeat."""
    repeated = np.unique(id_hashes[1:][id_hashes[1:] == id_hashes[:-1]])
    if not len(repeated):
        return []
    counts: Counter[str] = Counter()
    for ids in _scan_ids(_open_dataset(fs, paths), column):
        present = ids.drop_null()
        counts.update(present.filter(pa.array(np.isin(hash_array(present), repeated))).to_pylist())
    twice = sorted(id_ for id_, count in counts.items() if count > 1)
    if not twice:  # different ids with the same hash
        return []
    shown = ", ".join(redact(repr(id_)) for id_ in twice[:MAX_LISTED])
    more = ", ..." if len(twice) > MAX_LISTED else ""
    return [f"manifest: expected unique {column!r}, got {len(twice)} more than once: {shown}{more}"]
