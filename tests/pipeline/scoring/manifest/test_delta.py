import json
import struct
import sys
from pathlib import Path

import fsspec
import pytest
from deltalake import DeltaTable
from pyroaring import BitMap

from pipeline.scoring.manifest.opening import Manifest
from tests.pipeline.scoring.manifest.manifests import problem_of, read
from tests.pipeline.scoring.sources import make_delta, rows_of


@pytest.fixture
def table(tmp_path: Path) -> str:
    return make_delta(tmp_path / "table")


def commit(uri: str, actions: list[dict]) -> None:
    """Append a commit to the log, as other writers than deltalake do."""
    version = DeltaTable(uri).version() + 1
    lines = "\n".join(map(json.dumps, actions))
    Path(uri, "_delta_log", f"{version:020}.json").write_text(lines)


def feature(*names: str) -> dict:
    features = {"readerFeatures": list(names), "writerFeatures": list(names)}
    return {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}


def ids(manifest: Manifest) -> list[str]:
    return sorted(manifest.rows.to_table()["pair_id"].to_pylist())


def test_each_version_has_its_own_rows_and_fingerprint(table):
    manifests = [read(table, version=version) for version in (0, 1, 2, None)]
    assert [ids(manifest) for manifest in manifests] == [
        list(text) for text in ("abcd", "acd", "acde", "acde")
    ]
    assert [manifest.version for manifest in manifests] == [0, 1, 2, 2]
    assert len({manifest.fingerprint for manifest in manifests}) == 3
    assert manifests[2].fingerprint == manifests[3].fingerprint


def test_a_version_that_does_not_exist_is_refused_in_one_line(table):
    assert problem_of(table, version=7) == (
        f"manifest.version: expected a version of the Delta table {table}, got 7; the current one "
        "is 2"
    )


def test_a_version_whose_log_is_gone_is_refused_in_one_line(table):
    DeltaTable(table).create_checkpoint()
    for version in (0, 1):
        Path(table, "_delta_log", f"{version:020}.json").unlink()
    assert problem_of(table, version=0).endswith("got 0, which its log does not hold any more")
    assert ids(read(table)) == list("acde")


def test_a_version_whose_files_were_vacuumed_is_refused_in_one_line(table):
    DeltaTable(table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    problem = problem_of(table, version=0)
    assert f"expected the files of version 0 at {table}, got 1 file removed" in problem
    assert ids(read(table, version=1)) == list("acd")


def test_a_version_without_a_table_is_refused(tmp_path):
    assert problem_of(str(tmp_path), version=1).startswith(
        "manifest.version: expected the folder of a"
    )


def test_rows_that_deletion_vectors_delete_never_come_back(table):
    log = Path(table, "_delta_log/00000000000000000002.json").read_text().splitlines()
    add = next(json.loads(line)["add"] for line in log if "add" in json.loads(line))
    raw = struct.pack("<IQI", 1681511377, 1, 0) + BitMap([0]).serialize()
    vector = {"storageType": "i", "pathOrInlineDv": z85(raw), "sizeInBytes": len(raw)}
    removed = {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}
    marked = add | {"deletionVector": vector | {"cardinality": 1}}
    commit(table, [feature("deletionVectors"), {"remove": removed}, {"add": marked}])
    problem = problem_of(table)
    assert "expected a Delta table without deletion vectors" in problem
    assert "APPLY (PURGE)" in problem
    assert ids(read(table, version=2)) == list("acde")


def z85(raw: bytes) -> str:
    """Return bytes as Delta writes them: base 85 in ZeroMQ's alphabet."""
    alphabet = (
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    )
    padded = raw + bytes(-len(raw) % 4)
    words = (int.from_bytes(padded[i : i + 4], "big") for i in range(0, len(padded), 4))
    return "".join(alphabet[word // 85**power % 85] for word in words for power in range(4, -1, -1))


def test_a_feature_without_deleted_rows_is_no_problem(table):
    commit(table, [feature("deletionVectors")])
    assert ids(read(table)) == list("acde")


def test_renamed_columns_and_unknown_features_are_refused_in_one_line(table):
    metadata = DeltaTable(table)
    log = Path(table, "_delta_log/00000000000000000000.json").read_text().splitlines()
    action = next(json.loads(line) for line in log if "metaData" in json.loads(line))
    action["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
    schema = json.loads(action["metaData"]["schemaString"])
    for number, field in enumerate(schema["fields"]):
        field["metadata"] = {"delta.columnMapping.id": number}
        field["metadata"]["delta.columnMapping.physicalName"] = field["name"]
    schema["fields"][-1]["name"] = "renamed"
    action["metaData"]["schemaString"] = json.dumps(schema)
    commit(table, [feature("columnMapping"), action])
    assert "expected a Delta table without column mapping" in problem_of(table)
    assert metadata.version() == 2
    commit(table, [feature("neverHeardOf")])
    assert "expected a Delta table that deltalake reads" in problem_of(table)


def test_a_shallow_clone_and_an_empty_table_are_refused(table):
    log = Path(table, "_delta_log/00000000000000000002.json").read_text().splitlines()
    add = next(json.loads(line)["add"] for line in log if "add" in json.loads(line))
    commit(table, [{"add": add | {"path": "file:///elsewhere/x.parquet"}}])
    assert "got a shallow clone" in problem_of(table)
    DeltaTable(table).restore(2)
    DeltaTable(table).delete()
    assert problem_of(table).startswith("manifest.uri: expected Parquet files, got none")


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_table_in_an_object_store_is_read_through_its_own_driver(checkpoint, table, one_s3_store):
    if checkpoint:
        DeltaTable(table).create_checkpoint()
    uri = f"{one_s3_store.bucket}/table"
    fsspec.filesystem("s3").put(table, uri, recursive=True)
    manifest = read(uri)
    assert ids(manifest) == list("acde")
    assert manifest.fingerprint  # of ETags
    assert ids(read(uri, version=0)) == list("abcd")
    assert "the current one is 2" in problem_of(uri, version=3)


def test_a_missing_library_is_named_with_its_extra(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "deltalake", None)
    monkeypatch.delitem(sys.modules, "pipeline.scoring.manifest.delta", raising=False)
    assert "pip install 'spips[delta]' first" in problem_of(table)


def test_a_table_s_rows_are_checked_like_any_manifest_s(tmp_path, table):
    from deltalake import write_deltalake

    write_deltalake(table, rows_of("e", model=["z"], level=[6], note=["x"]), mode="append")
    assert problem_of(table) == "manifest: expected unique 'pair_id', got 1 more than once: 'e'"
