from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext

from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.opening import open_manifest
from pipeline.scoring.manifest.reading import read_rows
from tests.pipeline.scoring.sources import (
    HUGGING_FACE,
    make_delta,
    make_iceberg,
    rows_of,
    save,
    save_keyed,
)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    context = DataContext.get_current()
    before = context.use_datasource_v2, context.enable_progress_bars
    context.use_datasource_v2 = context.enable_progress_bars = False
    yield
    context.use_datasource_v2, context.enable_progress_bars = before
    ray.shutdown()


def one_file(folder: Path) -> dict[str, Any]:
    return {"uri": f"{save(folder, a=rows_of('abc'))}/a.parquet"}


def loose_files(folder: Path) -> dict[str, Any]:
    return {"uri": save(folder, a=rows_of("ab"), deep__er=rows_of("c"))}


def glob(folder: Path) -> dict[str, Any]:
    return {"uri": f"{save(folder, a=rows_of('ab'), b=rows_of('c'), x=rows_of('d'))}/[ab].*"}


def keys(folder: Path) -> dict[str, Any]:
    parts = {"day=2026-01-01/model=a%2Fb": "ab", "day=2026-01-01/_model=x": "",
             "day=/model=__HIVE_DEFAULT_PARTITION__": "c"}  # fmt: skip
    return {"uri": save_keyed(folder, {name: rows_of(ids) for name, ids in parts.items() if ids})}


def promoted(folder: Path) -> dict[str, Any]:
    def column(values: list[Any], type_: pa.DataType) -> pa.Array:
        return pa.array(values, type_)

    small, large = (pa.dictionary(index, pa.string()) for index in (pa.int8(), pa.int16()))
    return {
        "uri": save(
            folder,
            a=rows_of("ab", level=[1, 2], text=column(["p", "q"], pa.string_view()),
                      kind=column(["u", "v"], small), note=column([None, None], pa.null())),
            b=rows_of("c", level=[0.5], text=column(["r"], pa.large_string()),
                      kind=column(["w"], large), note=["n"]),
            c=rows_of("d", level=column([None], pa.null()), text=["s"], kind=column(["x"], large),
                      note=column(["m"], pa.large_string())),
        )
    }  # fmt: skip


def hugging_face(folder: Path) -> dict[str, Any]:
    images = pa.array([{"bytes": b"png", "path": "x.png"}, {"bytes": None, "path": "/d/y.png"}],
                      HUGGING_FACE)  # fmt: skip
    rows = pa.table({"pair_id": ["a", "b"], "reference": images, "output": images})
    return {
        "uri": save(folder, a=rows), "reference_column": "reference", "distorted_column": "output",
    }  # fmt: skip


def delta(folder: Path) -> dict[str, Any]:
    return {"uri": make_delta(folder)}


def delta_version(folder: Path) -> dict[str, Any]:
    return {"uri": make_delta(folder), "version": 0}


def iceberg(folder: Path) -> dict[str, Any]:
    return {"uri": make_iceberg(folder)[0]}


def iceberg_snapshot(folder: Path) -> dict[str, Any]:
    uri, table = make_iceberg(folder)
    return {"uri": uri, "version": table.snapshots()[0].snapshot_id}


def iceberg_metadata(folder: Path) -> dict[str, Any]:
    return {"uri": make_iceberg(folder)[1].metadata_location}


PNG, PATH = {"bytes": b"png", "path": "x.png"}, {"bytes": None, "path": "/d/y.png"}
SOURCES: tuple[tuple[Callable[[Path], dict[str, Any]], str, dict[str, list[Any]]], ...] = (
    (one_file, "abc", {}),
    (loose_files, "abc", {}),
    (glob, "abc", {}),
    (keys, "abc", {"day": ["2026-01-01"] * 2 + [""], "model": ["a/b", "a/b", None]}),
    (promoted, "abcd", {"level": [1.0, 2.0, 0.5, None], "text": ["p", "q", "r", "s"],
                        "kind": ["u", "v", "w", "x"], "note": [None, None, "n", "m"]}),
    (hugging_face, "ab", {"reference": [PNG, PATH], "output": [PNG, PATH]}),
    (delta, "acde", {"model": ["x", None, "x/y", "z"], "level": [1, 3, 4, 5],
                     "note": [None, None, None, "new"]}),
    (delta_version, "abcd", {"model": ["x", "x", None, "x/y"], "level": [1, 2, 3, 4]}),
    (iceberg, "acde", {"level": [1, 3, 4, 5], "note": [None, None, None, "new"]}),
    (iceberg_snapshot, "abcd", {"level": [1, 2, 3, 4]}),
    (iceberg_metadata, "acde", {"level": [1, 3, 4, 5], "note": [None, None, None, "new"]}),
)  # fmt: skip


@pytest.mark.parametrize(("make", "ids", "columns"), SOURCES)
def test_every_source_has_each_of_its_rows_once_on_the_driver_and_in_ray(
    make, ids, columns, tmp_path, ray_cluster
):
    manifest = open_manifest(ManifestConfig(**make(tmp_path / "source")))
    assert manifest.num_rows == len(manifest.id_hashes) == len(ids)
    blocks = list(read_rows(manifest).iter_batches(batch_size=None, batch_format="pyarrow"))
    for rows in (manifest.rows.to_table(), pa.concat_tables(blocks)):
        assert rows.schema.equals(manifest.schema)
        got = rows.sort_by("pair_id").to_pydict()
        assert got.pop("pair_id") == list(ids)
        uris = {name: got.pop(name) for name in ("reference_uri", "distorted_uri") if name in got}
        assert got == columns
        for name, got_uris in uris.items():
            assert got_uris == [f"/{id_}-{name[0]}.png" for id_ in ids]


@pytest.mark.parametrize("make", [keys, delta])
def test_folders_with_keys_and_tables_say_so(make, tmp_path):
    source = open_manifest(ManifestConfig(**make(tmp_path / "source"))).source
    assert source in (
        "keys      day, model: columns of texts, from the folders' names",
        "table     Delta, version 2, the current one",
    )
