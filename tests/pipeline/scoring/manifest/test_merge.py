"""Retried rows get into the result files, wherever a process that does it is killed."""

import itertools
import math
import os
import shutil
import signal
import sys

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs.run import RunFolder
from pipeline.runs.schema import SCORE_FIELDS, result_schema
from pipeline.runs.storage import arrow_filesystem, open_store
from pipeline.scoring.publish import merge_retry, set_strays_aside

SCHEMA = result_schema(
    pa.schema([pa.field("pair_id", pa.string(), nullable=False), ("tags", pa.list_(pa.string()))])
)


def rows_of(statuses: dict[str, str], attempt: int = 1) -> pa.Table:
    """Return results; an ok row's score is its attempt's number."""
    num_rows = len(statuses)
    columns = {field.name: pa.nulls(num_rows, field.type) for field in SCHEMA}
    columns |= {"pair_id": list(statuses), "tags": [["x", None]] * num_rows}
    columns |= {"status": list(statuses.values()), "error": [""] * num_rows}
    columns |= {name: ["r1"] * num_rows for name in ("run_id", "model_digest")}
    columns |= {"run_attempt": [attempt] * num_rows, "fetch_retries": [0] * num_rows}
    score = [float(attempt) if status == "ok" else None for status in statuses.values()]
    return pa.table(columns | {SCORE_FIELDS[0].name: score}, schema=SCHEMA)


@pytest.fixture
def retried(folder):
    """A run of nine rows in three files, of which a retry has scored four again."""
    run = RunFolder(*open_store(f"{folder}/run-r1"), "run-r1")
    files = {}
    for name, ids in (("b", "abc"), ("a", "def"), ("c", "ghi")):
        files[f"{run.scores_path(1)}/{name}.parquet"] = rows_of(
            {i: "missing" if i in "bdfe" else "ok" for i in ids}
        )
    again = [rows_of({"f": "ok", "b": "ok"}, 2), rows_of({"e": "missing", "d": "ok"}, 2)]
    new = {f"{run.scores_path(2)}/{number}.parquet": rows for number, rows in enumerate(again)}
    for path, rows in (files | new).items():
        run.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        pq.write_table(rows, path, filesystem=arrow_filesystem(run.fs))
    return run, files, list(new)


def read(run: RunFolder, paths) -> pa.Table:
    arrow = arrow_filesystem(run.fs)
    return pa.concat_tables([pq.read_table(path, filesystem=arrow) for path in paths])


def test_retried_rows_replace_the_old_ones_in_place(retried):
    run, files, again = retried
    untouched = f"{run.scores_path(1)}/c.parquet"
    modified = run.fs.modified(untouched)
    for _ in range(2):
        merge_retry(run, 2, list(files), again, "pair_id")
        results = read(run, files)
        assert results.schema.equals(SCHEMA)
        assert [field.nullable for field in results.schema] == [field.nullable for field in SCHEMA]
        assert results["pair_id"].to_pylist() == list("abcdefghi")
        assert results["run_attempt"].to_pylist() == [1, 2, 1, 2, 2, 2, 1, 1, 1]
        assert results["spips_score"].to_pylist() == [1, 2, 1, 2, None, 2, 1, 1, 1]
        assert results["tags"].to_pylist() == [["x", None]] * 9
        kept = {path: path.replace("/scores/", "/superseded/attempt-2/") for path in files}
        for path in list(files)[:2]:
            assert read(run, [kept[path]]).equals(files[path])
    assert run.fs.modified(untouched) == modified
    assert not run.fs.exists(kept[untouched])
    assert run.files(1) == sorted(files)


def test_what_a_killed_writer_left_is_set_aside(retried):
    run, files, _ = retried
    strays = ["half.parquet", ".b.parquet.0a.partial", "b.txt"]
    for name in strays:
        run.fs.pipe_file(f"{run.scores_path(1)}/{name}", b"PAR1")
    for _ in range(2):
        set_strays_aside(run, 1, list(files))
        assert run.files(1) == sorted(files)
        names = [path.rpartition("/")[2] for path in run.fs.find(run.superseded_path(1))]
        assert sorted(names) == sorted(strays)
    assert read(run, files).num_rows == 9


def die_at(moment: float) -> None:
    """Let this process kill itself when it is about to change a file for the so-manieth time."""
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        changes = ("os.rename", "os.mkdir", "os.remove")
        if event in changes or (event == "open" and set(str(arguments[1])) & {*"wxa+"}):
            count += 1
            if count > moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def merge_in_a_child(run: RunFolder, moment: float) -> bool:
    """Merge in a process that kills itself at a moment; return whether it did."""
    files = [f"{run.path}/scores/{name}.parquet" for name in "bac"]
    again = [f"{run.path}/retries/attempt-2/{number}.parquet" for number in (0, 1)]
    child = os.fork()
    if not child:
        try:
            die_at(moment)
            merge_retry(run, 2, files, again, "pair_id")
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("folder", ["local"], indirect=True)
def test_a_process_that_is_killed_anywhere_loses_and_doubles_no_row(retried):
    run, files, again = retried
    old = {row["pair_id"]: row for row in read(run, files).to_pylist()}
    new = old | {row["pair_id"]: row for row in read(run, again).to_pylist()}
    for moment in itertools.count():
        copy = RunFolder(run.fs, shutil.copytree(run.path, f"{run.path}-{moment}"), "run-r1")
        is_killed = merge_in_a_child(copy, moment)
        for expected in ((old, new), (new,)):
            rows = duckdb.sql(f"SELECT * FROM '{copy.path}/scores/*.parquet'").to_arrow_table()
            assert sorted(rows["pair_id"].to_pylist()) == list("abcdefghi")
            for row in rows.to_pylist():
                assert row in [one[row["pair_id"]] for one in expected]
            assert len(pd.read_parquet(f"{copy.path}/scores")) == 9  # all files of the folder
            merge_in_a_child(copy, math.inf)
        if not is_killed:
            break
    assert moment > 10
