"""What is printed at the end of a run."""

import pyarrow as pa

from pipeline.runs.finished import open_run
from pipeline.runs.summary import NUM_FAILURES, counted, summarise

FAILED = ["missing"] * (NUM_FAILURES + 1)


def columns_of(scores, statuses, errors):
    return {
        "pair_id": [f"p{number}" for number in range(len(statuses))],
        "spips_score": pa.array(scores, pa.float32()),
        "status": statuses,
        "error": errors,
    }


def test_a_run_ends_with_counts_scores_the_first_failures_and_the_next_command(write_run):
    scores = [0.1, 0.2, 0.6] + [None] * len(FAILED)
    statuses = ["ok"] * 3 + FAILED
    errors = [""] * 3 + [f"no file {number}" for number in range(len(FAILED))]
    run = open_run(write_run(columns_of(scores, statuses, errors)))
    lines = list(summarise(run))
    assert lines[:3] == [
        "ok                     3",
        "missing                4",
        "score     mean 0.3000, p95 0.5600",
    ]
    assert [line for line in lines if line.startswith("failed")] == [
        f"failed    p{number + 3}: missing: no file {number}" for number in range(NUM_FAILURES)
    ]
    assert lines[-2] == "retry     --retry-failed scores 4 failed rows again"
    assert lines[-1] == f"next      spips audit {run.uri} -o audit/"

    statuses[-1] = "too_large"  # which no retry changes
    run = open_run(write_run(columns_of(scores, statuses, errors), "other"))
    *_, retry, _ = summarise(run)
    assert retry == "retry     --retry-failed scores 3 of the 4 failed rows again"


def test_a_run_whose_failed_rows_would_fail_again_has_no_line_about_a_retry(write_run):
    run = open_run(write_run(columns_of([None], ["too_small"], ["expected 96 px"])))
    assert not [line for line in summarise(run) if line.startswith("retry")]


def test_a_run_without_scores_has_no_line_about_them(write_run):
    run = open_run(write_run(columns_of([None], ["missing"], ["no file"])))
    lines = list(summarise(run))
    assert "missing                1" in lines
    assert not [line for line in lines if line.startswith("score")]


def test_one_thing_has_no_plural():
    assert [counted(number, "row") for number in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
