import pytest

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.run import fingerprint, open_run_folder
from pipeline.runs.storage import open_store
from tests.pipeline.runs.conftest import MINE, PLAN, make_run, problems_of, record_of, write_scores


def test_a_run_is_new_then_unfinished_then_finished(folder):
    run = open_run_folder(folder, "r1", MINE)
    assert run.state() == "new"
    assert run.score_files(1) == []
    run.write_plan(PLAN)
    assert run.state() == "unfinished"
    write_scores(run, "a", {"p": "ok"})
    run.write_run(record_of("a"))
    assert run.state() == "unfinished"
    run.write_success()
    assert run.state() == "finished"
    assert run.read_plan() == PLAN
    assert run.read_run() == record_of("a")
    assert run.uri == f"{folder}/run-r1"


def test_what_another_machine_writes_is_seen(s3_store):
    run = make_run(s3_store.bucket)
    others = s3_store.server.others
    run.fs.find(run.path)  # s3fs caches this listing
    others.pipe_file(f"{run.path}/_SUCCESS", b"")
    assert run.state() == "finished"
    run.fs.find(run.path)
    others.pipe_file(f"{run.scores_path(1)}/a-0.parquet", b"")
    others.pipe_file(f"{run.checkpoint_path(1)}/a.parquet", b"")
    assert run.score_files(1) == [f"{run.scores_path(1)}/a-0.parquet"]


def test_the_same_run_is_opened_again(folder):
    make_run(folder)
    again = open_run_folder(f"{folder}/", "r1", MINE)
    assert again.state() == "unfinished"
    assert again.uri == f"{folder}/run-r1"
    assert open_run_folder(folder, "r2", MINE).state() == "new"


@pytest.mark.parametrize("changed", list(MINE))
def test_a_run_with_a_different_input_is_refused_with_both_fingerprints(tmp_path, changed):
    run = make_run(str(tmp_path))
    (problem,) = problems_of(open_run_folder, str(tmp_path), "r1", MINE | {changed: "new"})
    assert problem == (
        f"output.run_id: {run.uri} holds a run with a different {changed}: "
        f"expected fingerprint new, got {MINE[changed]}"
    )


def test_all_differences_from_the_existing_run_are_listed_at_once(tmp_path):
    make_run(str(tmp_path)).write_success()
    problems = problems_of(open_run_folder, str(tmp_path), "r1", dict.fromkeys(MINE, "new"))
    assert [problem.split()[8] for problem in problems] == ["manifest:", "model:", "scoring:"]


def test_a_folder_with_other_files_is_refused_and_left_alone(folder):
    fs, path = open_store(f"{folder}/run-r1")
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/notes.txt", b"notes")
    (problem,) = problems_of(open_run_folder, folder, "r1", MINE)
    assert "other files" in problem
    assert f"{folder}/run-r1" in problem
    assert [name.rpartition("/")[2] for name in fs.find(path)] == ["notes.txt"]


def test_files_of_a_process_that_was_killed_at_its_start_do_not_block_a_run(tmp_path):
    folder = tmp_path / "run-r1"
    folder.mkdir()
    for name in ("lock.json", "lock.json.0123.partial", "plan.json.0123.partial"):
        (folder / name).touch()
    assert open_run_folder(str(tmp_path), "r1", MINE).state() == "new"


def test_an_empty_local_folder_is_free(tmp_path):
    (tmp_path / "run-r1").mkdir()
    assert open_run_folder(str(tmp_path), "r1", MINE).state() == "new"


@pytest.mark.parametrize("content", ["{", "{}", "", '{"fingerprints": 3}'])
def test_a_plan_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "run-r1").mkdir()
    (tmp_path / "run-r1" / "plan.json").write_text(content)
    (problem,) = problems_of(open_run_folder, str(tmp_path), "r1", MINE)
    assert problem.startswith(f"{tmp_path}/run-r1/plan.json: expected ")


def test_a_plan_that_is_no_json_is_one_line_that_says_so(tmp_path):
    run = make_run(str(tmp_path))
    run.fs.pipe_file(f"{run.path}/plan.json", b"{damaged")
    with pytest.raises(ContractError, match=r"plan\.json: expected JSON, got a damaged file: Exp"):
        run.read_plan()


def test_a_store_that_cannot_be_opened_is_refused_without_its_secret():
    (problem,) = problems_of(open_run_folder, "nosuchscheme://u:secret@h/x", "r1", MINE)
    assert problem.startswith("output.uri: nosuchscheme://***@h/x cannot be used: ValueError")


def test_the_uri_of_a_run_shows_no_secret():
    assert open_run_folder("memory://u:secret@x", "r1", MINE).uri == "memory://***@x/run-r1"


def test_a_bucket_that_does_not_exist_is_a_fault_when_written_to(s3_store):
    run = open_run_folder(f"{s3_store.bucket}-absent", "r1", MINE)
    with pytest.raises(FaultError, match=r"absent/run-r1/plan.json cannot be written: "):
        run.write_plan(PLAN)


def test_a_number_that_json_cannot_hold_is_not_written(tmp_path):
    run = open_run_folder(str(tmp_path), "r1", MINE)
    with pytest.raises(ValueError, match="JSON"):
        run.write_plan(PLAN.model_copy(update={"config": {"psnr_db": float("inf")}}))
    assert run.state() == "new"


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys():
    value = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert fingerprint(value) == fingerprint({"b": {"d": None, "c": [1, 2]}, "a": 1})
    others = [{"a": 2, "b": value["b"]}, {"a": 1, "b": {"c": [2, 1], "d": None}}, {"a": 1}]
    assert len({fingerprint(other) for other in [value, *others]}) == 4
