import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.audits.records import label_of
from pipeline.runs.finished import open_run
from tests.pipeline.audits.conftest import problems_of, run_audit, scores
from tests.pipeline.runs.version_0_2 import write_run_0_2


def test_names_that_differ_in_case_and_values_that_look_like_others_stay_apart(write_run):
    columns = scores(n=40) | {
        "Maker": ["all rows", "", None, "a\nverdict    passed"] * 10,
        "SSIM": ["text"] * 40,
    }
    found = run_audit(write_run(columns), group_by=["maker", "Maker", "SSIM"])
    groups = {row.group for row in found.record.statuses}
    assert groups == {(), *zip(columns["maker"], columns["Maker"], columns["SSIM"], strict=True)}
    labels = [label_of(group) for group in groups]
    assert len(set(labels)) == len(groups)
    assert not any("\n" in label for label in labels)


def test_an_old_run_keeps_its_own_column_of_a_name_that_is_reserved_since(tmp_path):
    folder = write_run_0_2(tmp_path)
    (file,) = folder.glob("scores/*/*.parquet")
    pq.write_table(pq.read_table(file).add_column(0, "lpips", [["own", "x"]]), file)
    assert open_run(str(folder)).pass_through_columns[:2] == ["lpips", "pair_id"]
    found = run_audit(str(folder), group_by=["lpips"])
    assert {row.group for row in found.record.statuses} == {(), ("own",), ("x",)}
    assert "lpips" not in {row.column for row in found.record.figures}
    gate = {"column": "lpips", "figure": "mean", "at_most": 1}
    assert "has no lpips: a version" in problems_of(str(folder), gates=[gate])[0]


def test_columns_that_cannot_make_groups_are_refused(write_run):
    run = write_run(scores())
    assert "got 'prompt'" in problems_of(run, group_by=["prompt"])[0]
    assert "got 'spips_score'" in problems_of(run, group_by=["spips_score"])[0]
    many = scores(n=1200)
    many["maker"] = many["pair_id"]
    assert "at most 1000 groups" in problems_of(write_run(many, "many"), group_by=["maker"])[0]
    with pytest.raises(ValidationError, match="expected each column once"):
        run_audit(run, group_by=["maker", "maker"])
