from pathlib import Path

import pandas as pd
import pytest

from pipeline.audits.report import describe_audit
from pipeline.runs.errors import ContractError
from tests.pipeline.audits.conftest import find, problems_of, run_audit, scores


def test_the_newest_earlier_runs_of_a_folder_are_the_baseline(write_run, tmp_path):
    for day in range(1, 6):
        digest = ("b" if day == 3 else "a") * 64
        run = write_run(scores(seed=day), f"day{day}", finished_at=f"2026-01-0{day}T02:00:00+00:00",
                        digest=digest)  # fmt: skip
    write_run(scores(seed=9), "later", finished_at="2026-01-09T02:00:00+00:00")
    write_run(scores(seed=9), "unfinished", is_finished=False)
    folder = str(tmp_path / "scores")
    record = run_audit(run, folder).record
    assert [one.run_id for one in record.trend] == ["day1", "day2", "day4", "day5"]
    assert record.notes == (
        f"run-unfinished was left out: expected a finished run at {folder}/run-unfinished, got an "
        "unfinished one (no _SUCCESS)",
        "run day3 was skipped: a different model scored it",
    )
    few = run_audit(run, baseline={"uri": folder, "last_runs": 2}).record
    assert [one.run_id for one in few.baseline] == ["day2", "day4"]
    assert run_audit(folder).record.run.run_id == "later"
    every = run_audit(run, folder, allow_different_models=True).record
    assert len(every.baseline) == 4
    # All runs together are the baseline: a pair is compared with its mean over them.
    frames = [pd.DataFrame(scores(seed=day)) for day in (1, 2, 4)]
    means = pd.concat(frames).groupby("pair_id").spips_score.mean()
    rise = (pd.DataFrame(scores(seed=5)).set_index("pair_id").spips_score - means).mean()
    assert find(record.changes, column="spips_score").rise.value == pytest.approx(rise, abs=1e-6)


def test_a_retry_does_not_change_the_place_of_a_night(write_run, tmp_path):
    folder = str(tmp_path / "scores")
    write_run(scores(seed=1), "20", finished_at="2026-11-20T02:00:00+00:00",
              retried_at="2026-11-22T09:00:00+00:00")  # fmt: skip
    write_run(scores(seed=2), "21", finished_at="2026-11-21T02:00:00+00:00")
    record = run_audit(folder, folder).record
    assert [one.run_id for one in record.trend] == ["20", "21"]
    assert not record.notes
    assert [one.night for one in record.trend] == ["2026-11-20", "2026-11-21"]


def test_a_given_night_is_the_place_of_a_run_whenever_it_is_scored(write_run, tmp_path):
    folder = str(tmp_path / "scores")
    write_run(scores(seed=1), "late", finished_at="2026-11-25T02:00:00+00:00", night="2026-11-19")
    write_run(scores(seed=2), "20", finished_at="2026-11-20T02:00:00+00:00")
    write_run(scores(seed=3), "21", finished_at="2026-11-21T02:00:00+00:00", night="2026-11-21")
    write_run(scores(seed=3), "again", finished_at="2026-11-24T02:00:00+00:00", night="2026-11-20")
    record = run_audit(folder, folder).record
    assert [one.run_id for one in record.trend] == ["late", "20", "again", "21"]


@pytest.mark.parametrize("when", [{"finished_at": "2101-01-01T02:00:00+00:00"},
                                  {"night": "2101-01-01"}])  # fmt: skip
def test_a_run_from_the_future_is_not_taken_for_the_newest_without_a_note(
    write_run, tmp_path, when
):
    folder = str(tmp_path / "scores")
    run = write_run(scores(seed=1))
    write_run(scores(seed=2), "future", **when)
    record = run_audit(folder, folder).record
    assert record.run.run_id == "future"
    (note,) = record.notes
    assert note.startswith("run future is from the future: its night is 2101-01-01, it started at ")
    again = run_audit(run, folder).record.notes[0]
    assert again.partition(", and now")[0] == note.partition(", and now")[0]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda run: (run / "run.json").write_text("{"), "/run.json: expected JSON"),
        (lambda run: (run / "run.json").unlink(), "cannot be read: FileNotFoundError"),
        (lambda run: (run / "_SUCCESS").unlink(), "got an unfinished one (no _SUCCESS)"),
        (lambda run: (run / "run.json").write_text('{"version": 99}'), "got version 99"),
    ],
)
def test_a_newest_run_that_cannot_be_read_is_named(write_run, tmp_path, damage, expected):
    folder = str(tmp_path / "scores")
    damage(Path(write_run(scores(), "21", finished_at="2026-11-21T02:00:00+00:00")))
    _, problem = problems_of(folder)
    assert problem.startswith("scores.uri: run-21 was left out: ")
    assert expected in problem
    write_run(scores(), "20", finished_at="2026-11-20T02:00:00+00:00")
    record = run_audit(folder, folder).record
    assert record.run.run_id == "20"
    assert record.notes[0] == problem.removeprefix("scores.uri: ")


def test_an_earlier_run_that_cannot_be_compared_with_is_skipped_with_a_note(write_run, tmp_path):
    old = scores(seed=1)
    del old["maker"]
    write_run(old, "before-makers", finished_at="2026-01-01T02:00:00+00:00")
    lost = write_run(scores(seed=2), "lost", finished_at="2026-01-01T03:00:00+00:00")
    (Path(lost) / "scores/0.parquet").unlink()
    run = write_run(scores())
    assert "run lost was skipped" in run_audit(run, str(tmp_path / "scores")).record.notes[0]
    record = run_audit(run, str(tmp_path / "scores"), group_by=["maker"]).record
    notes = record.notes
    assert notes[0].startswith("run lost was skipped: its results cannot be read")
    assert notes[1] == "run before-makers was skipped: it has no column 'maker'"
    assert record.change == "not compared"


def test_a_run_is_not_compared_with_itself(write_run):
    run = write_run(scores())
    with pytest.raises(ContractError, match=r"baseline\.uri: expected another run"):
        run_audit(run, run)


def test_the_first_night_has_nothing_to_compare_with_and_says_so(write_run, tmp_path):
    gate = {"column": "spips_score", "figure": "mean", "rise_at_most": 0}
    record = run_audit(write_run(scores()), str(tmp_path / "scores"), gates=[gate]).record
    assert not record.passed
    assert record.gates[0].state == "not judged"
    assert "no earlier run to compare with" in record.notes[0]
    assert record.verdict == ("all rows: mean of spips_score: nothing to compare with")
    assert "on the first night of a series, give --gates_unjudged=pass" in describe_audit(record)


def test_a_baseline_of_a_different_model_is_refused_unless_allowed(write_run):
    run, other = write_run(scores()), write_run(scores(), "other", digest="b" * 64)
    (problem,) = problems_of(run, other)
    assert "expected a run of the same model (digest aaaa" in problem
    assert run_audit(run, other, allow_different_models=True).record.change == "no change seen"


def test_a_run_that_cannot_be_opened_is_one_line(write_run, tmp_path):
    run = write_run(scores())
    unfinished = write_run(scores(), "unfinished", is_finished=False)
    assert "got none" in problems_of(str(tmp_path))[0]
    assert "output.uri" in problems_of(run, output={"uri": f"{run}/run.json"})[0]
    assert problems_of(unfinished)[0].startswith("scores.uri: expected a finished run")
    assert problems_of(run, unfinished)[0].startswith("baseline.uri: expected a finished run")
    assert "baseline.uri" in problems_of(run, str(tmp_path / "nowhere"))[0]
