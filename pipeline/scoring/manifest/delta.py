"""Find the data files of a Delta table; needs the extra spips[delta]."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.runs.errors import ContractError
from pipeline.runs.storage import describe
from pipeline.scoring.manifest.files import REWRITE, ManifestFiles, check_present

_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet$")
_VERSION = re.compile(r"(\d{20})\.")


def find_delta_files(
    fs: AbstractFileSystem, root: str, version: int | None, uri: str
) -> ManifestFiles:
    """Return the files of a table's version.

    Args:
        fs: the table's store.
        root: its folder.
        version: the version; None for the current one.
        uri: the folder, for messages.

    Raises:
        ContractError: there is no such version, or its rows are not those of its files.
        STORE_ERRORS: the log cannot be read.
    """
    with _local_log(fs, root, version) as folder:
        try:
            table = _open(folder, version, uri)
            _check_plain(table, uri)
            adds = pa.table(table.get_add_actions(flatten=True))
            schema = pa.schema(table.schema().to_arrow())
            keys = table.metadata().partition_columns
        except DeltaError as error:
            raise ContractError(
                f"manifest.uri: expected a Delta table that deltalake reads, got {uri}: "
                f"{describe(error)}"
            ) from error
    names = adds.column("path").to_pylist()
    cloned = [name for name in names if "://" in name or name.startswith("/")]
    if cloned:
        raise ContractError(
            f"manifest.uri: expected data files inside the Delta table {uri}, got a shallow clone; "
            f"{REWRITE}"
        )
    paths = [f"{root}/{unquote(name)}" for name in names]  # the log has them as parts of URIs
    check_present(fs, paths, table.version(), uri)
    values = {
        path: {key: adds.column(f"partition.{key}")[row] for key in keys}
        for row, path in enumerate(paths)
    }
    chosen = "" if version is not None else ", the current one"
    return ManifestFiles(
        fs, sorted(paths), root, root, values=values if keys else {}, table=schema,
        source=f"table     Delta, version {table.version()}{chosen}", version=table.version(),
    )  # fmt: skip


@contextmanager
def _local_log(fs: AbstractFileSystem, root: str, version: int | None) -> Iterator[str]:
    """Give a local folder with a table's log, from its last checkpoint on.

    The store's own driver reads it, because deltalake's would need other settings and credentials.
    """
    if isinstance(fs, LocalFileSystem):
        yield root
        return
    log = f"{root}/_delta_log"
    found = [path for path in fs.ls(log, detail=False) if _VERSION.search(path)]
    checkpoints = [int(match[1]) for path in found if (match := _CHECKPOINT.search(path))]
    start = max((n for n in checkpoints if version is None or n <= version), default=0)
    wanted = [path for path in found if int(_VERSION.search(path)[1]) >= start]  # type: ignore[index]
    wanted += fs.find(f"{log}/_sidecars") if fs.isdir(f"{log}/_sidecars") else []
    with TemporaryDirectory() as folder:
        copies = [Path(folder, path.removeprefix(f"{root}/")) for path in wanted]
        for parent in {copy.parent for copy in copies}:
            parent.mkdir(parents=True, exist_ok=True)
        fs.get(wanted, [str(copy) for copy in copies])
        yield folder


def _open(folder: str, version: int | None, uri: str) -> DeltaTable:
    table = DeltaTable(folder)
    if version is None or version == table.version():
        return table
    problem = f"manifest.version: expected a version of the Delta table {uri}, got {version}"
    if version > table.version():
        raise ContractError(f"{problem}; the current one is {table.version()}")
    try:
        return DeltaTable(folder, version=version)
    except DeltaError as error:
        raise ContractError(f"{problem}, which its log does not hold any more") from error


def _check_plain(table: DeltaTable, uri: str) -> None:
    """Refuse a table whose rows are not those of its files, or under other names."""
    problem = None
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        problem = f"without column mapping, got one with it at {uri}; {REWRITE}"
    elif "deletionVectors" in (table.protocol().reader_features or ()) and _has_vectors(table):
        problem = (
            f"without deletion vectors, got one with rows deleted by them at {uri}; run REORG "
            f"TABLE ... APPLY (PURGE) on it, or {REWRITE}"
        )
    if problem:
        raise ContractError(f"manifest.uri: expected a Delta table {problem}")


def _has_vectors(table: DeltaTable) -> bool:
    try:
        return len(pa.table(table.deletion_vectors())) > 0
    except DeltaError:  # they lie beside the data, where only the store's driver can read
        return True
