"""Find the data files of an Iceberg table; needs the extra spips[iceberg]."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet
from fsspec import AbstractFileSystem
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import ValidationError
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.io.fsspec import FsspecInputFile
from pyiceberg.io.pyarrow import pyarrow_to_schema
from pyiceberg.manifest import FileFormat
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import FileScanTask, StaticTable
from pyiceberg.transforms import IdentityTransform

from pipeline.runs.errors import ContractError
from pipeline.runs.storage import arrow_filesystem, describe, open_fs
from pipeline.runs.uris import redact
from pipeline.scoring.manifest.files import REWRITE, ManifestFiles, Values, check_present
from pipeline.scoring.resources import FOOTER_THREADS

_NUMBER = re.compile(r"v?(\d+)[.-]")
FIELD_ID = b"PARQUET:field_id"


class StoreIO(FileIO):
    """Reads metadata with this project's stores, whatever the table's properties name."""

    def new_input(self, location: str) -> InputFile:
        """Return a file to read."""
        return FsspecInputFile(location, open_fs(location)[0])

    def new_output(self, location: str) -> OutputFile:
        """Refuse: nothing is written."""
        raise NotImplementedError(location)

    def delete(self, location: str | InputFile | OutputFile) -> NoReturn:
        """Refuse: nothing is deleted."""
        raise NotImplementedError(location)


def find_iceberg_files(
    fs: AbstractFileSystem, root: str, version: int | None, uri: str
) -> ManifestFiles:
    """Return the files of a table's snapshot.

    Args:
        fs: the table's store.
        root: its folder, or one of its metadata files.
        version: the snapshot's id; None for the current one.
        uri: of the folder or file, for messages.

    Raises:
        ContractError: there is no such snapshot, or its rows are not those of its files.
        STORE_ERRORS: the metadata cannot be read.
    """
    location = fs.unstrip_protocol(_find_metadata(fs, root, uri))
    try:
        io = StoreIO()
        metadata = FromInputFile.table_metadata(io.new_input(location))
        table = StaticTable(("manifest",), metadata, location, io, NoopCatalog("manifest"))
        snapshot = (
            table.snapshot_by_id(version) if version is not None else table.current_snapshot()
        )
        if snapshot is None:
            _refuse_snapshot(table, version, uri)
        scan = table.scan(snapshot_id=version)
        schema, tasks = scan.projection(), list(scan.plan_files())
    except (NotImplementedError, ValidationError, KeyError) as error:
        raise ContractError(
            f"manifest.uri: expected an Iceberg table that pyiceberg reads, got {uri}: "
            f"{describe(error)}"
        ) from error
    by_path = {_find_path(fs, task.file.file_path, uri): task for task in tasks}
    for path, task in by_path.items():
        _check_plain(path, task, uri)
    check_present(fs, list(by_path), snapshot.snapshot_id, uri)
    store = arrow_filesystem(fs)
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        read = pool.map(lambda path: pyarrow.parquet.read_schema(path, filesystem=store), by_path)
        schemas = dict(zip(by_path, read, strict=True))
    for path, in_file in schemas.items():
        _check_names(table, schema, in_file, path, uri)
    folder = root.rpartition("/metadata/")[0] if root.endswith(".json") else root
    chosen = "" if version is not None else ", the current one"
    values = _find_values(table, schema, by_path, schemas, uri)
    return ManifestFiles(
        fs, sorted(by_path), folder, folder, values=values, table=_arrow_schema(schema),
        version=snapshot.snapshot_id,
        source=f"table     Iceberg, snapshot {snapshot.snapshot_id}{chosen}",
    )  # fmt: skip


def _find_metadata(fs: AbstractFileSystem, root: str, uri: str) -> str:
    """Return the path of the newest metadata file: the one with the largest number."""
    if root.endswith(".metadata.json"):
        return root
    found = fs.glob(f"{root}/metadata/*.metadata.json")
    numbers = {path: _NUMBER.match(path.rpartition("/")[2]) for path in found}
    by_number: dict[int, list[str]] = {}
    for path, number in numbers.items():
        by_number.setdefault(int(number[1]) if number else -1, []).append(path)
    newest = sorted(by_number[max(by_number)])
    if len(newest) > 1:
        raise ContractError(
            f"manifest.uri: expected one newest metadata file in {uri}/metadata, got "
            f"{', '.join(path.rpartition('/')[2] for path in newest)}; name the one that your "
            "catalog calls the current one"
        )
    return newest[0]


def _refuse_snapshot(table: StaticTable, version: int | None, uri: str) -> NoReturn:
    if version is None:
        raise ContractError(f"manifest.uri: expected rows, got an empty Iceberg table at {uri}")
    known = [snapshot.snapshot_id for snapshot in table.snapshots()]
    raise ContractError(
        f"manifest.version: expected a snapshot of the Iceberg table {uri}, got {version}; the "
        f"newest are {', '.join(map(str, known[-5:]))}"
    )


def _find_path(fs: AbstractFileSystem, location: str, uri: str) -> str:
    other, path = open_fs(location)
    if type(other) is not type(fs):
        raise ContractError(
            f"manifest.uri: expected data files in the store of the Iceberg table {uri}, got "
            f"{redact(location)}"
        )
    return path


def _check_plain(path: str, task: FileScanTask, uri: str) -> None:
    """Refuse a data file that holds deleted rows, or is not Parquet."""
    if task.delete_files:
        raise ContractError(
            f"manifest.uri: expected an Iceberg table without delete files, got some at {uri}; "
            f"run rewrite_data_files on it, or {REWRITE}"
        )
    if task.file.file_format != FileFormat.PARQUET:
        raise ContractError(
            f"manifest.uri: expected Parquet files in the Iceberg table {uri}, got {redact(path)}"
        )


def _check_names(
    table: StaticTable, schema: Schema, in_file: pa.Schema, path: str, uri: str
) -> None:
    """Refuse a file whose columns have other names than the table's, which finds them by id.

    A file without ids is found by names, which must never have changed.
    """
    if any(FIELD_ID in (field.metadata or {}) for field in in_file):
        written = pyarrow_to_schema(in_file)
        wrong = [
            name
            for field_id in written.field_ids
            if (name := str(written.find_column_name(field_id)))
            and schema.find_column_name(field_id) != name
            and (schema.find_column_name(field_id) or name in schema.column_names)
        ]
    else:
        names = [
            (n, s.find_field(n).field_id) for s in table.schemas().values() for n in s.column_names
        ]
        wrong = [
            name
            for name in in_file.names
            if len({i for n, i in names if n == name}) > 1
            or len({n for n, i in names if i in {j for m, j in names if m == name}}) > 1
        ]
    lacks = [
        field.name
        for field in schema.fields
        if field.initial_default is not None and field.name not in in_file.names
    ]
    if wrong or lacks:
        reason = "has another name" if wrong else "has a default"
        raise ContractError(
            f"manifest.uri: expected the columns of the Iceberg table {uri} in its data files, got "
            f"{(wrong or lacks)[0]!r}, which {reason} in the table, in {redact(path)}; run "
            f"rewrite_data_files on it, or {REWRITE}"
        )


def _find_values(
    table: StaticTable,
    schema: Schema,
    tasks: dict[str, FileScanTask],
    schemas: dict[str, pa.Schema],
    uri: str,
) -> dict[str, Values]:
    """Return the values of partition columns that data files leave out."""
    known: dict[str, dict[str, Any]] = {}
    for path, task in tasks.items():
        fields = table.specs()[task.file.spec_id].fields
        known[path] = {
            str(schema.find_column_name(field.source_id)): task.file.partition[index]
            for index, field in enumerate(fields)
            if isinstance(field.transform, IdentityTransform)
        }
    lacking = {n for path, values in known.items() for n in values if n not in schemas[path].names}
    types = _arrow_schema(schema)
    lacking &= set(types.names)
    for path, values in known.items():
        if not lacking <= values.keys():
            raise ContractError(
                f"manifest.uri: expected partition columns in all data files of the Iceberg table "
                f"{uri} or in none, got {', '.join(sorted(lacking))} only in {redact(path)}"
            )
    if not lacking:
        return {}
    return {
        path: {name: pa.scalar(values[name], types.field(name).type) for name in sorted(lacking)}
        for path, values in known.items()
    }


def _arrow_schema(schema: Schema) -> pa.Schema:
    """Return the columns, with texts of Arrow's usual type."""
    return pa.schema(
        [
            pa.field(f.name, pa.string() if pa.types.is_large_string(f.type) else f.type)
            for f in schema.as_arrow()
        ]
    )
