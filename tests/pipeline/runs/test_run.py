import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.records import AttemptRecord, PlanRecord, RunRecord
from pipeline.runs.run import (
    count_by_status,
    fingerprint,
    open_run,
    open_run_folder,
    open_scores,
)
from pipeline.runs.schema import Status
from pipeline.runs.storage import arrow_filesystem, open_store

MINE = {"manifest": "m1", "model": "d1", "scoring": "s1"}


PLAN = PlanRecord(
    run_id="r1",
    fingerprints=MINE,
    num_rows=1,
    columns={"pair_id": "pair_id", "reference": "reference_uri", "distorted": "distorted_uri"},
    model={"digest": "d1", "trained": True, "training": {}, "config": {}, "fusion_weights": None},
    config={},
    versions={},
)


def record_of(*files: str) -> RunRecord:
    """Return the record of a run with one attempt for each file."""
    attempts = [
        AttemptRecord(
            files=[file], num_rows=1, num_rows_resumed=0, scorers={}, started_at="2026-01-01",
            elapsed_s=1, rows_per_s=1, fetch_retries=0,
        )
        for file in files
    ]  # fmt: skip
    return RunRecord(
        **dict(PLAN), attempts=attempts, counts_by_status={}, failed_fraction=0.0,
        finished_at="2026-01-01",
    )  # fmt: skip


def write_scores(
    run, task: str, statuses: dict[str, str], *, attempt: int = 1, is_recorded: bool = True
) -> str:
    """Write a file of results by pair_id, and a record of its rows; return its name."""
    rows = {"pair_id": list(statuses), "status": list(statuses.values()),
            "run_attempt": pa.array([attempt] * len(statuses), pa.int32())}  # fmt: skip
    files = [f"{run.scores_path(attempt)}/{task}-0.parquet"]
    if is_recorded:
        files.append(f"{run.checkpoint_path(attempt)}/{task}.parquet")
    for path in files:
        run.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        pyarrow.parquet.write_table(pa.table(rows), path, filesystem=arrow_filesystem(run.fs))
    return files[0].removeprefix(f"{run.path}/")


def make_run(folder: str, run_id: str = "r1"):
    run = open_run_folder(folder, run_id, MINE)
    run.write_plan(PLAN)
    return run


def problems_of(call, *arguments, **options) -> list[str]:
    with pytest.raises(ContractError) as caught:
        call(*arguments, **options)
    return caught.value.problems


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
    assert run.uri == f"{folder}/run_id=r1"


def test_what_another_machine_writes_is_seen(s3_store):
    run = make_run(s3_store.bucket)
    others = s3_store.server.others
    run.fs.find(run.path)  # s3fs remembers what it listed
    others.pipe_file(f"{run.path}/_SUCCESS", b"")
    assert run.state() == "finished"
    run.fs.find(run.path)
    others.pipe_file(f"{run.scores_path(1)}/a-0.parquet", b"")
    others.pipe_file(f"{run.checkpoint_path(1)}/a.parquet", b"")
    assert run.score_files(1) == [f"{run.scores_path(1)}/a-0.parquet"]


def test_the_same_run_is_taken_up_again(folder):
    make_run(folder)
    again = open_run_folder(f"{folder}/", "r1", MINE)
    assert again.state() == "unfinished"
    assert again.uri == f"{folder}/run_id=r1"
    assert open_run_folder(folder, "r2", MINE).state() == "new"


@pytest.mark.parametrize("changed", list(MINE))
def test_a_run_with_another_input_is_refused_with_both_fingerprints(tmp_path, changed):
    run = make_run(str(tmp_path))
    (problem,) = problems_of(open_run_folder, str(tmp_path), "r1", MINE | {changed: "new"})
    assert problem == (
        f"output.run_id: {run.uri} holds another {changed}: expected fingerprint new, "
        f"got {MINE[changed]}"
    )


def test_everything_that_differs_from_the_run_there_is_listed_at_once(tmp_path):
    make_run(str(tmp_path)).write_success()
    problems = problems_of(open_run_folder, str(tmp_path), "r1", dict.fromkeys(MINE, "new"))
    assert [problem.split()[4] for problem in problems] == ["manifest:", "model:", "scoring:"]


def test_a_folder_with_other_files_is_refused_and_left_alone(folder):
    fs, path = open_store(f"{folder}/run_id=r1")
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/notes.txt", b"notes")
    (problem,) = problems_of(open_run_folder, folder, "r1", MINE)
    assert "other files" in problem
    assert f"{folder}/run_id=r1" in problem
    assert [name.rpartition("/")[2] for name in fs.find(path)] == ["notes.txt"]


def test_what_a_process_left_that_was_killed_at_once_does_not_lock_a_run_out(tmp_path):
    folder = tmp_path / "run_id=r1"
    folder.mkdir()
    for name in ("lock.json", "lock.json.0123.partial", "plan.json.0123.partial"):
        (folder / name).touch()
    assert open_run_folder(str(tmp_path), "r1", MINE).state() == "new"


def test_an_empty_local_folder_is_free(tmp_path):
    (tmp_path / "run_id=r1").mkdir()
    assert open_run_folder(str(tmp_path), "r1", MINE).state() == "new"


@pytest.mark.parametrize("content", ["{", "{}", "", '{"fingerprints": 3}'])
def test_a_plan_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "run_id=r1").mkdir()
    (tmp_path / "run_id=r1" / "plan.json").write_text(content)
    (problem,) = problems_of(open_run_folder, str(tmp_path), "r1", MINE)
    assert problem.startswith(f"{tmp_path}/run_id=r1/plan.json: expected ")


def test_a_store_that_cannot_be_opened_is_refused_without_its_secret():
    (problem,) = problems_of(open_run_folder, "nosuchscheme://u:secret@h/x", "r1", MINE)
    assert problem.startswith("output.uri: nosuchscheme://***@h/x cannot be used: ValueError")


def test_the_uri_of_a_run_shows_no_secret():
    assert open_run_folder("memory://u:secret@x", "r1", MINE).uri == "memory://***@x/run_id=r1"


def test_a_bucket_that_does_not_exist_is_a_fault_when_written_to(s3_store):
    run = open_run_folder(f"{s3_store.bucket}-absent", "r1", MINE)
    with pytest.raises(FaultError, match=r"absent/run_id=r1/plan.json cannot be written: "):
        run.write_plan(PLAN)


def test_a_number_that_json_cannot_hold_is_not_written(tmp_path):
    run = open_run_folder(str(tmp_path), "r1", MINE)
    with pytest.raises(ValueError, match="JSON"):
        run.write_plan(PLAN.model_copy(update={"config": {"psnr_db": float("inf")}}))
    assert run.state() == "new"


def test_rows_are_counted_by_status_over_all_files(folder):
    run = make_run(folder)
    write_scores(run, "a", {"p": "ok", "q": "missing", "r": "ok"})
    write_scores(run, "b", {"s": "ok", "t": "too_small"})
    counts = count_by_status(open_scores(run.uri, allow_unfinished=True))
    assert list(counts) == [status.value for status in Status]
    expected = {"ok": 3, "missing": 1, "too_small": 1}
    assert {status: count for status, count in counts.items() if count} == expected


def test_only_a_finished_run_is_read_unless_asked_otherwise(folder):
    run = make_run(folder)
    name = write_scores(run, "a", {"p": "ok", "q": "missing"})
    run.fs.pipe_file(f"{run.scores_path(1)}/notes.txt", b"not a result")
    (problem,) = problems_of(open_scores, run.uri)
    assert problem == f"expected a finished run at {run.uri}, got an unfinished one (no _SUCCESS)"
    assert open_scores(run.uri, allow_unfinished=True).count_rows() == 2
    run.write_run(record_of(name))
    run.write_success()
    write_scores(run, "late", {"r": "ok"})
    for allow_unfinished in (False, True):
        rows = open_scores(f"{run.uri}/", allow_unfinished=allow_unfinished)
        assert rows.to_table()["status"].to_pylist() == ["ok", "missing"]


def test_a_file_whose_rows_are_not_recorded_as_done_is_not_read(folder):
    run = make_run(folder)
    write_scores(run, "a", {"p": "ok"})
    write_scores(run, "killed", {"q": "ok"}, is_recorded=False)
    run.fs.pipe_file(f"{run.checkpoint_path(1)}/killed.pending.parquet", b"")
    assert open_scores(run.uri, allow_unfinished=True).to_table()["pair_id"].to_pylist() == ["p"]


def test_of_each_pair_the_newest_attempt_is_read(folder):
    run = make_run(folder)
    statuses = ({"p": "ok", "q": "missing", "r": "missing", "s": "too_small", "t": "missing"},
                {"q": "ok", "r": "unreadable", "t": "ok"}, {"r": "ok"})  # fmt: skip
    files = [write_scores(run, "a", rows, attempt=i) for i, rows in enumerate(statuses, start=1)]
    run.write_success()
    expected = [["ok", "missing", "missing", "too_small", "missing"],
                ["ok", "ok", "unreadable", "too_small", "ok"],
                ["ok", "ok", "ok", "too_small", "ok"]]  # fmt: skip
    for number in (1, 2, 3):
        run.write_run(record_of(*files[:number]))
        rows = open_scores(run.uri)
        assert rows.count_rows() == 5
        assert rows.to_table().sort_by("pair_id")["status"].to_pylist() == expected[number - 1]
        only = rows.to_table(columns=["pair_id"], filter=pc.field("status") == "too_small")
        assert only["pair_id"].to_pylist() == ["s"]
    assert open_run(run.uri).num_attempts == 3


def test_scores_that_are_not_there_are_refused(folder):
    for allow_unfinished in (False, True):
        uri = f"{folder}/run_id=absent"
        (problem,) = problems_of(open_scores, uri, allow_unfinished=allow_unfinished)
        assert problem == f"expected a finished run at {uri}, got no run"
    run = make_run(folder)
    (problem,) = problems_of(open_scores, run.uri, allow_unfinished=True)
    assert problem == f"expected results at {run.uri}, got a run without any yet"
    (problem,) = problems_of(open_scores, "nosuchscheme://u:secret@h/run_id=r1")
    assert problem.startswith("nosuchscheme://***@h/run_id=r1 cannot be read: ValueError")


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys():
    value = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert fingerprint(value) == fingerprint({"b": {"d": None, "c": [1, 2]}, "a": 1})
    others = [{"a": 2, "b": value["b"]}, {"a": 1, "b": {"c": [2, 1], "d": None}}, {"a": 1}]
    assert len({fingerprint(other) for other in [value, *others]}) == 4
