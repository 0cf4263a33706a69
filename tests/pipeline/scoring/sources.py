"""Manifests as people keep them, made by the libraries that make them."""

import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

IMAGES = ("reference_uri", "distorted_uri")
HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def rows_of(ids: str, **columns: Any) -> pa.Table:
    """Return a row for each letter; columns extend the usual ones."""
    uris = {name: [f"/{id_}-{name[0]}.png" for id_ in ids] for name in IMAGES}
    return pa.table({"pair_id": list(ids)} | uris | columns)


def save(folder: Path, **files: pa.Table) -> str:
    """Write Parquet files, by path without suffix, where __ is a slash."""
    for name, rows in files.items():
        path = folder / f"{name.replace('__', '/')}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)
    return str(folder)


def save_keyed(folder: Path, parts: dict[str, pa.Table]) -> str:
    """Write one Parquet file into each of some folders."""
    for number, (name, rows) in enumerate(parts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / name / f"{number}.parquet")
    return str(folder)


def make_delta(folder: Path) -> str:
    """Return a table whose versions hold abcd, then acd (b is deleted), then acde."""
    first = rows_of("abcd", model=["x", "x", None, "x/y"], level=[1, 2, 3, 4])
    write_deltalake(str(folder), first, partition_by=["model"])
    DeltaTable(str(folder)).delete("pair_id = 'b'")
    later = rows_of("e", model=["z"], level=[5], note=["new"])
    write_deltalake(str(folder), later, mode="append", schema_mode="merge")
    return str(folder)


def make_iceberg(folder: Path) -> tuple[str, Table]:
    """Return a table whose snapshots hold abcd, then acd (b is deleted), then acde."""
    folder.mkdir(parents=True)
    catalog = SqlCatalog("test", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("n")
    first = rows_of("abcd", level=pa.array([1, 2, 3, 4], pa.int32()))
    table = catalog.create_table("n.pairs", first.schema)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a delete that matches nothing
        table.append(first)
        table.delete("pair_id = 'b'")
        with table.update_schema() as change:
            change.union_by_name(pa.schema([("note", pa.string())]))
        table.append(rows_of("e", level=pa.array([5], pa.int32()), note=["new"]))
    catalog.close()
    return str(folder / "n/pairs"), table
