import json
import shutil
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Table

from pipeline.runs.errors import ContractError
from pipeline.scoring.manifest.opening import Manifest
from tests.pipeline.scoring.manifest.manifests import problem_of, read
from tests.pipeline.scoring.sources import make_iceberg, rows_of


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, Table]:
    return make_iceberg(tmp_path / "warehouse")


def ids(manifest: Manifest) -> list[str]:
    return sorted(manifest.rows.to_table()["pair_id"].to_pylist())


def test_each_snapshot_has_its_own_rows_columns_and_fingerprint(made):
    uri, table = made
    versions = [snapshot.snapshot_id for snapshot in table.snapshots()]
    manifests = [read(uri, version=versions[0]), read(uri, version=versions[1]), read(uri)]
    assert [ids(manifest) for manifest in manifests] == [list(t) for t in ("abcd", "acd", "acde")]
    assert ["note" in manifest.schema.names for manifest in manifests] == [False, False, True]
    assert len({manifest.fingerprint for manifest in manifests}) == 3
    assert manifests[2].version == versions[-1]


def test_a_snapshot_that_does_not_exist_is_refused_in_one_line(made):
    problem = problem_of(made[0], version=5)
    assert problem.startswith(
        f"manifest.version: expected a snapshot of the Iceberg table {made[0]}, got 5; the newest"
    )


def test_a_snapshot_whose_files_are_gone_is_refused_in_one_line(made):
    uri, table = made
    first = table.snapshots()[0].snapshot_id
    (old,) = {*read(uri, version=first).paths} - {*read(uri).paths}
    Path(old).unlink()
    assert f"got 1 file removed from the table, as by VACUUM, for example {old}" in problem_of(
        uri, version=first
    )
    assert ids(read(uri)) == list("acde")


def test_two_newest_metadata_files_are_refused_and_each_can_be_named(made):
    uri, table = made
    newest = Path(table.metadata_location.removeprefix("file://"))
    number = newest.name.partition("-")[0]
    other = newest.with_name(f"{number}-00000000-0000-0000-0000-000000000000.metadata.json")
    shutil.copy(newest, other)
    problem = problem_of(uri)
    assert newest.name in problem
    assert other.name in problem
    assert ids(read(str(newest))) == ids(read(str(other))) == list("acde")


def test_a_column_with_a_new_name_is_refused_and_a_dropped_one_is_left_out(made):
    uri, table = made
    with table.update_schema() as change:
        change.delete_column("level")
    assert "level" not in read(uri).schema.names
    with table.update_schema() as change:
        change.rename_column("note", "remark")
    assert "got 'note', which has another name in the table" in problem_of(uri)


def test_a_dropped_column_s_values_do_not_come_back_under_its_name(made):
    uri, table = made
    with table.update_schema() as change:
        change.delete_column("level")
    with table.update_schema() as change:
        change.add_column("level", table.schema().find_type("note"))
    assert "got 'level', which has another name in the table" in problem_of(uri)


def test_delete_files_are_refused(made):
    """A copy of a data file's entry says that it holds the positions of deleted rows."""
    from pyiceberg.table import FileScanTask

    from pipeline.scoring.manifest.iceberg import _check_plain

    uri, table = made
    (task, *_) = table.scan().plan_files()
    _check_plain("/x.parquet", task, uri)
    with pytest.raises(ContractError, match="without delete files"):
        _check_plain("/x.parquet", FileScanTask(task.file, delete_files={task.file}), uri)


def test_partition_columns_come_from_the_files_or_from_the_table(made):
    uri, table = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.delete()
        with table.update_spec() as change:
            change.add_identity("note")
            change.add_identity("level")
        level = pa.array([7, 8, 7], pa.int32())
        table.append(rows_of("fgh", note=["a b/c", None, "d"], level=level))
    paths = read(uri).paths
    for dropped in ([], ["note"], ["note", "level"]):  # as in tables that Hive wrote
        for path in paths[:2] if "level" in dropped else paths:
            rows = pq.read_table(path, partitioning=None)
            pq.write_table(rows.drop_columns([*{*dropped} & {*rows.column_names}]), path)
        rows = read(uri).rows.to_table().sort_by("pair_id")
        assert rows["note"].to_pylist() == ["a b/c", None, "d"]
        assert rows["level"].to_pylist() == [7, 8, 7]
        assert len(rows.column_names) == 5


def test_a_damaged_metadata_file_and_a_class_that_it_names_are_not_used(made, tmp_path):
    uri, table = made
    newest = Path(table.metadata_location.removeprefix("file://"))
    content = json.loads(newest.read_text())
    content["properties"]["py-io-impl"] = "no.such.Module"
    newest.write_text(json.dumps(content))
    assert ids(read(uri)) == list("acde")
    newest.write_text("{}")
    assert problem_of(uri).startswith("manifest.uri: ")


def test_a_missing_library_is_named_with_its_extra(made, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyiceberg"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "pipeline.scoring.manifest.iceberg", raising=False)
    assert "pip install 'spips[iceberg]' first" in problem_of(made[0])
