from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.runs.errors import ContractError
from pipeline.scoring.config import ManifestConfig, ScoreManifestConfig
from pipeline.scoring.manifest.opening import open_manifest
from pipeline.scoring.plan import describe_plan, make_plan
from pipeline.scoring.resources import Scorers
from pipeline.scoring.reuse.attempts import Attempt
from pipeline.scoring.stage_arguments import rows_per_task
from spips_core import SPIPS
from tests.pipeline.scoring.sources import make_delta


def plan_of(folder, output=None, manifest=None, model=None, **columns):
    rows = {"pair_id": ["a"], "reference_uri": ["/r.png"], "distorted_uri": ["/d.png"], **columns}
    pq.write_table(pa.table(rows), folder / "pairs.parquet")
    settings = {
        "manifest": {"uri": manifest or str(folder / "pairs.parquet")},
        "model": model or {},
        "output": {"uri": str(folder / "out"), **(output or {})},
    }
    return make_plan(ScoreManifestConfig.model_validate(settings))


def test_a_table_s_version_is_shown_and_recorded(tmp_path):
    uri = make_delta(tmp_path / "table")
    plan = plan_of(tmp_path, manifest=uri)
    assert "table     Delta, version 2, the current one" in describe_plan(plan)
    assert plan.record().config["manifest"]["version"] == 2
    assert {status for status, _ in plan.sample.outcomes} == {"missing"}


def test_a_scorer_that_loads_takes_as_much_work_at_once_whatever_the_images_size(tmp_path):
    plan = replace(plan_of(tmp_path), attempt=Attempt(1, np.zeros(10_000, np.uint64), None))
    scorers = Scorers(2, 0, 0, False)
    loading = replace(scorers, load_images=True)
    for side_px, rows in ((64, 128), (256, 128), (1024, 8), (8192, 1)):
        sized = replace(plan, sample=replace(plan.sample, pixels_per_pair=float(side_px**2)))
        assert rows_per_task(sized, loading) == rows
        assert rows_per_task(sized, scorers) == 128
    assert rows_per_task(plan, replace(loading, num_scorers=16)) == 78


@pytest.mark.parametrize(
    ("uri", "is_local"), [("/d.png", True), ("file:///d.png", True), ("memory://d.png", False)]
)
def test_scorers_may_load_local_images_of_a_run_that_reuses_none(tmp_path, uri, is_local):
    plan = plan_of(tmp_path, distorted_uri=[uri])
    assert plan.scorers_may_load() is is_local
    assert not replace(plan, earlier="a run").scorers_may_load()


def test_the_same_run_has_the_same_id_and_a_different_manifest_a_different_one(tmp_path):
    first = plan_of(tmp_path, note=["x"])
    assert plan_of(tmp_path, note=["x"]).run_id == first.run_id
    assert plan_of(tmp_path, note=["y"]).run_id != first.run_id


def test_rows_that_cannot_be_loaded_are_reported_and_do_not_stop_the_plan(tmp_path):
    ((status, error),) = plan_of(tmp_path).sample.outcomes
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


@pytest.mark.parametrize("night", [0, "0", "1763683200", "2026-1-1", "2026-13-01"])
def test_a_night_is_a_date(tmp_path, night):
    with pytest.raises(ValidationError, match=r"output\.night"):
        plan_of(tmp_path, {"night": night})


@pytest.mark.parametrize("manifest", ["pairs.parquet", "../m/*.parquet", "file://pairs.parquet"])
def test_the_record_of_a_manifest_with_a_relative_path_leads_to_it_from_everywhere(
    manifest, tmp_path, monkeypatch
):
    folder = tmp_path / "m"
    folder.mkdir()
    monkeypatch.chdir(folder)
    record = plan_of(folder, manifest=manifest).record()
    monkeypatch.chdir(tmp_path)
    recorded = ManifestConfig.model_validate(record.config["manifest"])
    assert open_manifest(recorded).fingerprint == record.fingerprints["manifest"]


def test_a_link_to_nothing_is_a_problem_only_where_it_would_be_read(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("notes", "_b.parquet", "folder"):
        (folder / name).symlink_to(tmp_path / "absent")
    output = {"uri": str(tmp_path / "out")}
    plan = plan_of(folder, output, manifest=str(folder))
    assert plan.manifest.paths == [f"{folder}/pairs.parquet"]
    for name in ("b.parquet", "c.pq"):
        (folder / name).symlink_to(tmp_path / "absent")
    problem = f"manifest.uri: expected a file, got a link to nothing: {folder}"
    for uri, expected in (
        ("", [f"{problem}/b.parquet", f"{problem}/c.pq"]),
        ("/*q", [f"{problem}/c.pq"]),
        ("/b.parquet", [f"{problem}/b.parquet"]),
    ):
        with pytest.raises(ContractError) as caught:
            plan_of(folder, output, manifest=f"{folder}{uri}")
        assert caught.value.problems == expected


def test_the_record_of_a_model_with_a_relative_path_leads_to_it_from_everywhere(
    tmp_path, monkeypatch
):
    SPIPS.load("embedded").save(tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    for checkpoint, recorded in (
        ("mine.safetensors", f"{tmp_path}/mine.safetensors"),
        (f"file://{tmp_path}/mine.safetensors", f"file://{tmp_path}/mine.safetensors"),
        ("embedded", "embedded"),
    ):
        plan = plan_of(tmp_path, model={"checkpoint": checkpoint})
        assert plan.record().config["model"]["checkpoint"] == recorded
        plan.folder.write_plan(plan.record())
    assert len(list((tmp_path / "out").iterdir())) == 1  # the path does not tell runs apart


def test_lpips_of_a_model_that_cannot_give_it_is_refused_in_one_line(tmp_path):
    with pytest.raises(ContractError) as caught:
        plan_of(tmp_path, model={"lpips": True})
    (problem,) = caught.value.problems
    assert problem.startswith("model: lpips: expected a model with the trunk alexnet or squeeze")


def test_a_plan_names_the_files_of_a_folder_that_are_no_manifest(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    settings = {"manifest": {"uri": str(folder)}, "output": {"uri": str(tmp_path / "out")}}
    plan_of(folder)
    for name, line in (
        ("_SUCCESS", ""),
        ("b.parquet.gz", f"1 files beside them whose names do not end in .parquet or .parq or .pq, "
                         f"such as {folder}/b.parquet.gz"),
    ):  # fmt: skip
        (folder / name).write_bytes(b"")
        text = describe_plan(make_plan(ScoreManifestConfig.model_validate(settings)))
        assert (f"left out  {line}" in text) if line else ("left out" not in text)
