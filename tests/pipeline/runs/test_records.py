import json

import pytest

from pipeline.runs.errors import ContractError
from pipeline.runs.finished import open_run
from pipeline.runs.records import RECORD_VERSION, LockRecord, RunRecord, parse_record
from pipeline.runs.run import open_run_folder
from tests.pipeline.runs.version_0_2 import FINGERPRINTS, RUN_JSON, plan_json, write_run_0_2

RUN = plan_json(FINGERPRINTS, ("/pairs.parquet", "/out")) | RUN_JSON


def test_a_finished_run_of_version_0_2_is_read(tmp_path):
    run = open_run(str(write_run_0_2(tmp_path)))
    assert run.record.version == 1
    assert run.record.fingerprints == FINGERPRINTS
    assert run.record.model.fusion_weights == {"tradition": 0.25, "percept": 0.25, "semantic": 0.5}
    assert run.record.attempts[0].scorers["actors"] == 1
    assert run.record.counts_by_status["missing"] == 1
    assert run.image_columns == ("reference_uri", "distorted_uri")
    assert run.scores.to_table()["status"].to_pylist() == ["ok", "missing"]


@pytest.mark.parametrize("is_finished", [True, False])
def test_the_name_of_a_run_of_an_earlier_version_is_not_given_again(tmp_path, is_finished):
    run = write_run_0_2(tmp_path, is_finished=is_finished)
    with pytest.raises(ContractError) as caught:
        open_run_folder(str(tmp_path), "night", FINGERPRINTS)
    (problem,) = caught.value.problems
    assert problem.startswith(f"output.run_id: expected a new name, got that of {run}, a run of an")
    assert [path.name for path in tmp_path.iterdir()] == ["run_id=night"]


def test_a_record_is_written_as_it_was_read_except_for_new_names(tmp_path):
    file = write_run_0_2(tmp_path) / "run.json"
    before = json.loads(file.read_text())
    folder = open_run(str(file.parent)).folder
    folder.write_run(folder.read_run())
    after = json.loads(file.read_text())
    (attempt,) = after["attempts"]
    attempt["workers"] = attempt.pop("scorers")
    assert attempt.pop("notes") == []
    before["model"]["dmos_scale"] = None
    assert after == before | {"version": 1, "night": None, "reused_rows": {}}


def test_keys_that_are_not_known_are_ignored():
    more = RUN | {"version": RECORD_VERSION, "weather": "fine"}
    more["attempts"] = [more["attempts"][0] | {"energy_j": 3}]
    record = parse_record(RunRecord, more, "run.json")
    assert record == parse_record(RunRecord, RUN | {"version": RECORD_VERSION}, "run.json")


def test_a_record_of_a_newer_version_is_refused_whatever_is_in_it(tmp_path):
    run = write_run_0_2(tmp_path)
    (run / "run.json").write_text(json.dumps({"version": RECORD_VERSION + 1}))
    with pytest.raises(ContractError) as caught:
        open_run(str(run))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{run}/run.json: expected a record of version {RECORD_VERSION} or")
    assert f"got version {RECORD_VERSION + 1}" in problem


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"columns": None}, "columns: "),
        ({"num_rows": "many"}, "num_rows: "),
        ({"attempts": []}, "attempts: "),
        ({"attempts": [{}]}, "attempts.0.files: Field required; "),
        ({"model": {"digest": 3}}, "model.digest: "),
    ],
)
def test_a_record_that_cannot_be_understood_is_refused_with_one_line(tmp_path, change, expected):
    run = write_run_0_2(tmp_path)
    (run / "run.json").write_text(json.dumps(RUN | change))
    with pytest.raises(ContractError) as caught:
        open_run(str(run))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{run}/run.json: expected what version 0.2 of this project or a")
    assert f", got {expected}" in problem
    assert "\n" not in problem


@pytest.mark.parametrize("content", [[], 3, "text", None, {}])
def test_json_that_is_not_a_record_is_refused(content):
    with pytest.raises(ContractError, match=r"lock\.json: expected what version 0.2"):
        parse_record(LockRecord, content, "lock.json")
