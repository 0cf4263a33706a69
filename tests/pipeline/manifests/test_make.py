import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.manifests import make as making
from pipeline.manifests.config import MakeManifestConfig
from pipeline.manifests.make import make_manifest
from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ManifestConfig
from pipeline.scoring.manifest.opening import open_manifest


def write_list(path, *ids: str) -> str:
    rows = "".join(f"{id_},r.png,d.png,{id_[0]}\n" for id_ in ids)
    path.write_text(f"id,reference,distorted,model\n{rows}")
    return str(path)


def config_of(source: str, output: str, *, overwrite: bool = False) -> MakeManifestConfig:
    sections = {"source": {"uri": source}, "output": {"uri": output, "overwrite": overwrite}}
    return MakeManifestConfig.model_validate(sections)


def test_a_manifest_is_written_to_any_store_and_counted_by_model(folder, tmp_path):
    source = write_list(tmp_path / "list.csv", "a1", "a2", "b1")
    summary = make_manifest(config_of(source, f"{folder}/new/m.parquet"))
    assert summary.uri == f"{folder}/new/m.parquet"
    assert (summary.num_rows, summary.rows_by_model) == (3, {"a": 2, "b": 1})
    assert open_manifest(ManifestConfig(uri=summary.uri)).num_rows == 3


def test_a_manifest_that_exists_is_replaced_only_if_told_to(folder, tmp_path):
    output = f"{folder}/m.parquet"
    make_manifest(config_of(write_list(tmp_path / "list.csv", "a1"), output))
    config = config_of(write_list(tmp_path / "list.csv", "a1", "a2"), output)
    with pytest.raises(ContractError, match="expected a new file, or --overwrite, got one"):
        make_manifest(config)
    assert open_manifest(ManifestConfig(uri=output)).num_rows == 1
    make_manifest(config_of(f"{tmp_path}/list.csv", output, overwrite=True))
    assert open_manifest(ManifestConfig(uri=output)).num_rows == 2


def test_ids_that_repeat_are_named_and_leave_an_older_manifest_alone(folder, tmp_path):
    output = f"{folder}/m.parquet"
    make_manifest(config_of(write_list(tmp_path / "list.csv", "a1"), output))
    source = write_list(tmp_path / "list.csv", "a1", "a1", "b", "a2", "a2", "a2")
    with pytest.raises(ContractError, match="expected unique ids, got 2 more than once: a1, a2;"):
        make_manifest(config_of(source, output, overwrite=True))
    assert open_manifest(ManifestConfig(uri=output)).num_rows == 1


def test_rows_are_written_in_groups_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "ROW_GROUP_BYTES", 1000)
    table = pa.table({"reference": [b"r" * 10] * 640, "distorted": [b"d" * 10] * 640})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    output = f"{tmp_path}/made/m.parquet"
    make_manifest(config_of(f"{tmp_path}/a.parquet", output))
    assert pyarrow.parquet.read_metadata(output).num_row_groups == 10
    assert pyarrow.parquet.read_metadata(output).num_rows == 640


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("set/m.parquet", "expected a file outside the source"),
        ("set/a.parquet", "expected a new file, or --overwrite"),
        ("folder.parquet", "expected a file, got a folder"),
        ("file/m.parquet", "expected a writable folder"),
    ],
)
def test_a_place_that_cannot_hold_the_manifest_is_refused(output, expected, tmp_path):
    for folder in ("set", "folder.parquet"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    table = pa.table({"reference": [b"r"], "distorted": [b"d"]})
    pyarrow.parquet.write_table(table, tmp_path / "set/a.parquet")
    with pytest.raises(ContractError, match=expected):
        make_manifest(config_of(f"{tmp_path}/set", f"{tmp_path}/{output}"))


def test_a_manifest_may_be_beside_the_files_of_another_kind_that_a_glob_finds(tmp_path):
    write_list(tmp_path / "list.csv", "a1")
    for _ in range(2):
        make_manifest(config_of(f"{tmp_path}/*.csv", f"{tmp_path}/m.parquet", overwrite=True))
    with pytest.raises(ContractError, match="outside the source"):
        make_manifest(config_of(f"{tmp_path}/*", f"{tmp_path}/other.parquet"))


def test_a_source_is_not_replaced_by_its_manifest(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"reference": [b"r"], "distorted": [b"d"]}), path)
    with pytest.raises(ContractError, match="outside the source"):
        make_manifest(config_of(str(path), str(path), overwrite=True))
