"""What the filter job decides before it starts Ray."""

import re

import pytest
import ray

from jobs import filter_scores
from jobs.run_job import DONE, WRONG
from pipeline.runs import lock as locking
from pipeline.runs.run import RunFolder
from pipeline.runs.storage import open_store

COLUMNS = {"pair_id": ["a", "b"], "spips_score": [0.1, 0.2]}


def filter_(run, folder, *arguments):
    code = filter_scores.main([f"--scores.uri={run}", f"--output.uri={folder}", *arguments])
    assert not ray.is_initialized()
    return code


@pytest.fixture
def _soon(monkeypatch):
    monkeypatch.setattr(locking, "BEAT_S", 0.1)
    monkeypatch.setattr(locking, "WATCH_S", 2.0)


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_bounds_that_keep_nothing_have_one_answer_dry_or_not(flags, write_run, tmp_path, capfd):
    bounds = '--bounds=[{"column": "spips_score", "at_most": 0}]'
    assert filter_(write_run(COLUMNS), tmp_path / "out", bounds, *flags) == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: bounds: expected rows to keep, got none of 2: 2 are not: spips")


def test_statuses_that_keep_nothing_are_no_problem_of_bounds(write_run, tmp_path, capfd):
    assert filter_(write_run(COLUMNS), tmp_path / "out", "--statuses=missing,crashed") == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        "error: statuses: expected rows to keep, got none of 2: 2 are not: status is missing or "
        "crashed"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_a_lost_manifest_has_one_answer_dry_or_not(flags, write_run, tmp_path, capfd):
    columns = COLUMNS | {"reference_uri": ["https://host/r.png?sig=***"] * 2}
    run = write_run(columns, config={"manifest": {"uri": f"{tmp_path}/lost.parquet"}})
    assert filter_(run, tmp_path / "out", *flags) == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: the run's manifest, which holds what its results do not: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_soon")
def test_a_second_filter_into_one_folder_is_refused(write_run, tmp_path, capfd):
    run, out = write_run(COLUMNS), str(tmp_path / "out")
    with locking.lock_run(RunFolder(*open_store(out), out)):
        assert filter_(run, out, "--dry-run") == DONE
        assert filter_(run, out) == WRONG
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: output: expected no other process writing to {out}, got")


def test_the_help_shows_the_values_that_are_accepted(write_run, tmp_path, capfd):
    with pytest.raises(SystemExit):
        filter_scores.main(["--help"])
    assert "Values: ok, missing, forbidden," in " ".join(capfd.readouterr().out.split())
    run, out = write_run(COLUMNS), tmp_path / "out"
    assert filter_(run, out, "--statuses=ok,missing", "--dry-run") == DONE
    capfd.readouterr()
    assert filter_(run, out, "--statuses=ok,MISSING", "--dry-run") == WRONG
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: statuses.1: Input should be 'ok', 'missing', ")
    assert line.endswith("got 'MISSING'")
    assert filter_(run, out, "--statuses=OK", "--dry-run") == WRONG
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert filter_(run, out, "--statuses=[]", "--dry-run") == WRONG
    assert capfd.readouterr().err == "error: statuses: expected at least 1 entries, got 0\n"


def test_the_best_of_each_reference_can_be_asked_for_in_one_option(write_run, tmp_path, capfd):
    best = "--best_per_reference={n: 1}"
    run = write_run(COLUMNS | {"reference_uri": ["/r.png", "/r.png"]})
    assert filter_(run, tmp_path / "out", best, "--dry-run") == DONE
    assert re.search(r"^kept +1 ", capfd.readouterr().out, re.MULTILINE)
