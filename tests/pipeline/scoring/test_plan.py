import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ScoreManifestConfig
from pipeline.scoring.plan import make_plan


def plan_of(folder, output=None, **columns):
    rows = {"pair_id": ["a"], "reference_uri": ["/r.png"], "distorted_uri": ["/d.png"], **columns}
    pq.write_table(pa.table(rows), folder / "pairs.parquet")
    settings = {
        "manifest": {"uri": str(folder / "pairs.parquet")},
        "output": {"uri": str(folder / "out"), **(output or {})},
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


def test_each_night_has_a_run_of_its_own(tmp_path):
    nights = [plan_of(tmp_path, {"night": night}) for night in (None, "2026-11-20", "2026-11-21")]
    assert len({plan.run_id for plan in nights}) == 3
    assert [plan.record().night for plan in nights] == [None, "2026-11-20", "2026-11-21"]
    named = {"night": "2026-11-20", "run_id": "r1"}
    plan = plan_of(tmp_path, named)
    plan.folder.write_plan(plan.record())
    assert plan_of(tmp_path, named).folder.state() == "unfinished"
    for other in (None, "2026-11-21"):
        with pytest.raises(ContractError, match=r"a run with a different night: .* got 2026-11-20"):
            plan_of(tmp_path, named | {"night": other})
