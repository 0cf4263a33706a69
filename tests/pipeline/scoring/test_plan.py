import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ScoreManifestConfig
from pipeline.scoring.plan import make_plan


def plan_of(folder, **columns):
    rows = {"pair_id": ["a"], "reference_uri": ["/r.png"], "distorted_uri": ["/d.png"], **columns}
    pq.write_table(pa.table(rows), folder / "pairs.parquet")
    settings = {
        "manifest": {"uri": str(folder / "pairs.parquet")},
        "output": {"uri": str(folder / "out")},
    }
    return make_plan(ScoreManifestConfig.model_validate(settings))


def test_a_column_type_that_arrow_cannot_write_is_refused_by_name(tmp_path):
    with pytest.raises(ContractError, match="'note' as string or binary, got string_view"):
        plan_of(tmp_path, note=pa.array(["x"], pa.string_view()))


def test_the_same_run_has_the_same_id_and_a_different_manifest_a_different_one(tmp_path):
    first = plan_of(tmp_path, note=["x"])
    assert plan_of(tmp_path, note=["x"]).run_id == first.run_id
    assert plan_of(tmp_path, note=["y"]).run_id != first.run_id


def test_rows_that_cannot_be_loaded_are_reported_and_do_not_stop_the_plan(tmp_path):
    ((status, error),) = plan_of(tmp_path).sample
    assert status == "missing"
    assert "/r.png" in error
