import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.finished import open_run
from pipeline.runs.storage import deltalake_options
from pipeline.scoring.delta_output import check_delta, write_delta

COLUMNS = {
    "pair_id": ["a", "b", "c"],
    "spips_score": pa.array([0.5, None, 0.25], pa.float32()),
    "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
    "level": pa.array([200, 1, 0], pa.uint8()),
    "night": [date(2026, 11, 20)] * 3,
    "nothing": pa.nulls(3),
}


def read(uri: str) -> list[dict]:
    table = DeltaTable(uri, storage_options=deltalake_options()).to_pyarrow_table()
    return table.sort_by([("run_id", "ascending"), ("pair_id", "ascending")]).to_pylist()


def test_each_run_is_a_partition_that_the_same_command_does_not_write_again(write_run, tmp_path):
    uri = str(tmp_path / "table")
    runs = [open_run(write_run(COLUMNS, "one")), open_run(write_run({"pair_id": ["a"]}, "two"))]
    for run in runs:
        assert "the partition run_id=" in write_delta(run, uri)
    assert [row["pair_id"] for row in read(uri)] == ["a", "b", "c", "a"]
    assert [row["spips_score"] for row in read(uri)] == [0.5, None, 0.25, None]
    assert [row["level"] for row in read(uri)] == [200, 1, 0, None]
    assert [row["kind"] for row in read(uri)] == ["x", "y", "x", None]
    assert [row["night"] for row in read(uri)] == [date(2026, 11, 20)] * 3 + [None]
    before = DeltaTable(uri).version()
    for run in runs:
        assert write_delta(run, uri) == f"delta     {uri} has these results already"
    assert DeltaTable(uri).version() == before


def test_a_retry_s_rows_replace_the_run_s(write_run, tmp_path):
    uri = str(tmp_path / "table")
    write_delta(open_run(write_run({"pair_id": ["a", "b"]}, "one")), uri)
    write_delta(open_run(write_run({"pair_id": ["z"]}, "two")), uri)
    retried = write_run(
        {"pair_id": ["a", "b"], "spips_score": pa.array([0.1, 0.2], pa.float32())}, "one",
        retried_at="2026-01-03T00:00:00+00:00", attempts=[1, 2], folder=tmp_path / "retried",
    )  # fmt: skip
    write_delta(open_run(retried), uri)
    rows = [(row["run_id"], row["pair_id"], row["run_attempt"]) for row in read(uri)]
    assert rows == [("one", "a", 1), ("one", "b", 2), ("two", "z", 1)]
    assert read(uri)[1]["spips_score"] == pytest.approx(0.2)


def test_a_table_in_an_object_store_is_written_too(write_run, one_s3_store):
    uri = f"{one_s3_store.bucket}/table"
    run = open_run(write_run(COLUMNS, "one"))
    write_delta(run, uri)
    write_delta(run, uri)
    assert len(read(uri)) == 3


@pytest.mark.parametrize(
    "type_", [pa.time64("us"), pa.duration("s"), pa.float16(), pa.uint64(), pa.decimal256(50, 2)]
)
def test_a_column_that_delta_cannot_hold_is_refused_before_the_run(type_, tmp_path):
    with pytest.raises(ContractError) as caught:
        check_delta(str(tmp_path), pa.schema([("x", type_), ("y", pa.string())]))
    assert caught.value.problems == [
        f"output.delta_uri: expected columns that a Delta table holds, got 'x' as {type_}"
    ]


def test_a_table_that_cannot_be_written_is_a_fault_that_names_the_results(write_run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    run = write_run({"pair_id": ["a"]}, "one")
    with pytest.raises(FaultError, match=f"the results are published in {run}"):
        write_delta(open_run(run), str(tmp_path / "file" / "table"))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(ContractError, match=r"pip install 'spips\[delta\]' first"):
        check_delta(str(Path("table")), pa.schema([]))
