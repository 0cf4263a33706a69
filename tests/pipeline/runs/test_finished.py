import re
from pathlib import Path

import duckdb
import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.runs.finished import find_run_around, open_run, open_scores
from tests.pipeline.runs.conftest import make_run, problems_of, record_of, write_scores


def test_an_unfinished_run_is_read_only_on_request(folder):
    run = make_run(folder)
    name = write_scores(run, "a", {"p": "ok", "q": "missing"})
    run.fs.pipe_file(f"{run.scores_path(1)}/notes.txt", b"not a result")
    (problem,) = problems_of(open_scores, run.uri)
    assert problem == f"expected a finished run at {run.uri}, got an unfinished one (no _SUCCESS)"
    assert open_scores(run.uri, allow_unfinished=True).count_rows() == 2
    run.write_run(record_of(name, num_rows=2))
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


def test_of_a_run_that_an_earlier_version_retried_the_newest_result_of_each_pair_is_read(folder):
    run = make_run(folder)
    statuses = ({"p": "ok", "q": "missing", "r": "missing", "s": "too_small", "t": "missing"},
                {"q": "ok", "r": "unreadable", "t": "ok"}, {"r": "ok"})  # fmt: skip
    files = [
        write_scores(run, "a", rows, attempt=i, folder=f"scores/attempt-{i}")
        for i, rows in enumerate(statuses, start=1)
    ]
    run.write_success()
    expected = [["ok", "missing", "missing", "too_small", "missing"],
                ["ok", "ok", "unreadable", "too_small", "ok"],
                ["ok", "ok", "ok", "too_small", "ok"]]  # fmt: skip
    for number in (1, 2, 3):
        record = record_of(*files[:number], num_rows=5)
        run.write_run(record.model_copy(update={"version": 2}))
        rows = open_scores(run.uri)
        assert rows.count_rows() == 5
        assert rows.to_table().sort_by("pair_id")["status"].to_pylist() == expected[number - 1]
        only = rows.to_table(columns=["pair_id"], filter=pc.field("status") == "too_small")
        assert only["pair_id"].to_pylist() == ["s"]
        for where, ids in ((None, list("pqrst")), (pc.field("status") == "too_small", ["s"])):
            batches = open_run(run.uri).scan(["pair_id"], where, batch_size=2)
            assert sorted(one for batch in batches for one in batch[0].to_pylist()) == ids
    assert open_run(run.uri).num_attempts == 3


def test_missing_scores_are_refused(folder):
    for allow_unfinished in (False, True):
        uri = f"{folder}/run-absent"
        (problem,) = problems_of(open_scores, uri, allow_unfinished=allow_unfinished)
        assert problem == f"expected a finished run at {uri}, got no run"
    run = make_run(folder)
    (problem,) = problems_of(open_scores, run.uri, allow_unfinished=True)
    assert problem == f"expected results at {run.uri}, got a run without any yet"
    (problem,) = problems_of(open_scores, "nosuchscheme://u:secret@h/run-r1")
    assert problem.startswith("nosuchscheme://***@h/run-r1 cannot be read: ValueError")


DOCUMENT = (Path(__file__).parents[3] / "docs/results.md").read_text()
LINES = re.findall(r"^((?:pandas|polars|duckdb)\..*scores/run-.*\))", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_other_tools_read_a_run_with_one_documented_line(write_run, tmp_path, line):
    tool = line.partition(".")[0]
    module = pytest.importorskip(tool)
    run = write_run({"pair_id": ["a", "b", "c"]}, "2026-11-21")
    read = eval(line.replace("scores/run-", f"{tmp_path}/scores/run-"), {tool: module})
    rows = read.df() if tool == "duckdb" else read
    assert sorted(rows["pair_id"]) == ["a", "b", "c"]
    assert set(rows["run_id"]) == {"2026-11-21"}
    assert list(rows.columns) == open_scores(run).schema.names


PARTS = re.findall(
    r"^(scores\.to_table\(f.*|polars\.scan.*|duckdb\.sql\(.SELECT s.*)", DOCUMENT, re.MULTILINE
)


@pytest.mark.parametrize("retried", [False, True])
def test_three_tools_read_parts_of_what_open_scores_returns(write_run, retried):
    columns = {"pair_id": ["a", "b", "c"], "status": ["ok", "missing", "ok"],
               "spips_score": pa.array([0.5, None, 0.25], pa.float32())}  # fmt: skip
    scores = open_scores(write_run(columns))
    if retried:  # runs of earlier versions are filtered
        scores = scores.filter(pc.field("pair_id") != "c")
    names = {"scores": scores, "polars": pl, "duckdb": duckdb, "pyarrow": pa}
    pandas, lazy, counts = (eval(line, names) for line in PARTS)
    expected = {"a": 0.5} if retried else {"a": 0.5, "c": 0.25}
    assert dict(zip(pandas["pair_id"], pandas["spips_score"], strict=True)) == expected
    assert dict(lazy.select("pair_id", "spips_score").iter_rows()) == expected
    assert counts.set_index("status")["count_star()"].to_dict() == {
        "ok": len(expected), "missing": 1,
    }  # fmt: skip


def test_lines_for_three_tools_are_documented():
    assert {line.partition(".")[0] for line in LINES} == {"pandas", "polars", "duckdb"}


@pytest.mark.parametrize("store", ["memory:/", "local"])
def test_the_run_around_a_folder_is_found_on_every_store(store, tmp_path):
    root = str(tmp_path) if store == "local" else f"memory://{tmp_path.name}"
    fs, path = fsspec.url_to_fs(root)
    for name, content in {
        "plan.json": b'{"planned_values": {}}',  # of another program
        "scores/run-a/run.json": b'{"fingerprints": {}}',
        "scores/run-b/plan.json": b'{"fingerprints": {}}',
    }.items():
        fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{path}/{name}", content)
    for inside in ("run-a", "run-a/", "run-a/scores", "run-b/scores/new/audit"):
        found = find_run_around(f"{root}/scores/{inside}")
        assert found == f"{path}/scores/{inside[:5]}"
    for outside in ("", "scores", "scores/audit", "scores/run-aa", "scores/run-a/../audit"):
        if store == "local" or ".." not in outside:
            assert find_run_around(f"{root}/{outside}") is None
    if store == "local":
        (tmp_path / "link").symlink_to(tmp_path / "scores/run-a/scores")
        assert find_run_around(f"{root}/link/new") == f"{root}/scores/run-a"
