import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.filters.config import FilterScoresConfig
from pipeline.filters.filter import FilterSummary, open_output, open_source, write_filtered
from pipeline.filters.rules import REASON, make_rules, summarise
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import open_run, open_scores
from tests.pipeline.filters.conftest import BOUNDS, filtered_columns


def filter_run(run, folder, **settings):
    config = FilterScoresConfig.model_validate(
        {"scores": {"uri": run}, "output": {"uri": str(folder)}} | settings
    )
    opened = open_run(run)
    rules = make_rules(config, opened)
    output, state = open_output(config, opened)
    if state == "finished":
        return "finished"
    summary = summarise(rules, opened)
    source = open_source(opened, summary)
    return write_filtered(config, output, opened, rules, summary, source)


def problems_of(*arguments, **settings):
    with pytest.raises(ContractError) as caught:
        filter_run(*arguments, **settings)
    return caught.value.problems


def test_every_row_is_kept_or_rejected_with_all_its_reasons(write_run, tmp_path):
    twice = [*BOUNDS, BOUNDS[0]]
    summary = filter_run(write_run(filtered_columns()), tmp_path / "out", bounds=twice)
    frame = pd.DataFrame(filtered_columns())
    ok = frame.status == "ok"
    limits = frame[ok].groupby("maker", dropna=False).spips_score.quantile(0.8)
    limit = frame.maker.map(
        lambda m: limits[limits.index.isna()].item() if pd.isna(m) else limits[m]
    )
    broken = pd.DataFrame({
        "status is ok": ~ok,
        "spips_score at most 0.3": ok & ~(frame.spips_score <= 0.3),
        "psnr_db at least 25": ok & ~(frame.psnr_db >= 25),
        "spips_score at most the 0.8 quantile of its maker":
            ok & ~(frame.spips_score <= limit.astype("float32")),
    })  # fmt: skip
    kept = pq.read_table(tmp_path / "out/manifest").to_pandas()
    rejected = pq.read_table(tmp_path / "out/rejects").to_pandas()
    expected = frame[~broken.any(axis=1)]
    assert sorted(kept.pair_id) == sorted(expected.pair_id)
    assert set(kept.columns) == {"pair_id", "maker", "reference_uri", "distorted_uri"}
    assert sorted([*kept.pair_id, *rejected.pair_id]) == sorted(frame.pair_id)
    for row in rejected.itertuples():
        names = broken.columns[broken.loc[frame.pair_id == row.pair_id].iloc[0]]
        assert getattr(row, REASON) == "; ".join(f"not: {name}" for name in names)
    assert summary.kept == len(expected)
    alone = broken[broken.sum(axis=1) == 1]
    for rule in summary.rules:
        assert rule.removes == broken[rule.rule].sum()
        assert rule.removes_alone == alone[rule.rule].sum()
    text = (tmp_path / "out/summary.json").read_text()
    assert FilterSummary.model_validate_json(text) == summary


def test_quantiles_within_times_are_found_again_when_rows_are_written(write_run, tmp_path):
    columns = filtered_columns(20) | {
        "made": pa.array(range(20), pa.timestamp("ns", "Europe/Berlin")),
        "took": pa.array(range(20), pa.duration("ns")),
        "kind": pa.array([*"ab"] * 10).dictionary_encode(),
    }
    within = ["made", "took", "kind"]
    bounds = [{"column": "spips_score", "at_most_quantile": 0.5, "within": within}]
    assert filter_run(write_run(columns), tmp_path / "out", bounds=bounds).kept == 15
    assert pq.read_table(tmp_path / "out/manifest").num_rows == 15


def test_a_finished_filtering_is_left_alone_and_an_unfinished_one_replaced(write_run, tmp_path):
    run, out = write_run(filtered_columns()), tmp_path / "out"
    summary = filter_run(run, out, bounds=BOUNDS)
    assert filter_run(run, out, bounds=BOUNDS) == "finished"
    (problem,) = problems_of(run, out, bounds=BOUNDS[:1])
    assert "expected an empty folder or the same filtering" in problem
    (out / "summary.json").unlink()
    assert filter_run(run, out, bounds=BOUNDS) == summary
    assert pq.read_table(out / "manifest").num_rows == summary.kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    assert problems_of(run, tmp_path / "mine", bounds=BOUNDS)


def test_a_plan_without_a_version_is_still_the_same_filtering_and_other_files_are_not(
    write_run, tmp_path
):
    run, out = write_run(filtered_columns()), tmp_path / "out"
    filter_run(run, out, bounds=BOUNDS)
    plan = json.loads((out / "plan.json").read_text())
    assert plan.pop("version") == 1  # the first version of the format had none
    (out / "plan.json").write_text(json.dumps(plan))
    assert filter_run(run, out, bounds=BOUNDS) == "finished"
    for other in ({**plan, "version": 2}, {**plan, "bounds": "?"}, {}):
        (out / "plan.json").write_text(json.dumps(other))
        (problem,) = problems_of(run, out, bounds=BOUNDS)
        assert problem.startswith("output.uri: expected an empty folder or the same filtering")
        assert "\n" not in problem


def test_failed_rows_can_be_picked_to_be_scored_again(write_run, tmp_path):
    summary = filter_run(write_run(filtered_columns()), tmp_path / "out", statuses=["missing"])
    assert summary.kept == 5
    assert pq.read_table(tmp_path / "out/manifest")["pair_id"].to_pylist() == [
        f"p{i}" for i in range(5)
    ]


def test_bounds_that_keep_nothing_are_refused_with_what_each_removes(write_run, tmp_path):
    (problem,) = problems_of(
        write_run(filtered_columns()),
        tmp_path / "out",
        bounds=[{"column": "spips_score", "at_most": 0}],
    )
    assert (
        "expected rows to keep, got none of 200: 5 are not: status is ok; 195 are not: spips"
        in problem
    )
    assert not (tmp_path / "out").exists()


def test_of_a_run_that_an_earlier_version_retried_the_newest_rows_are_filtered(write_run, tmp_path):
    scores = {"pair_id": list("abcd"), "spips_score": [0.1, None, None, 0.9],
              "status": ["ok", "missing", "missing", "ok"]}  # fmt: skip
    run = write_run(scores)
    filter_run(run, tmp_path / "before", bounds=BOUNDS[:1])
    again = write_run({"pair_id": ["b", "c"], "spips_score": [0.2, None],
                       "status": ["ok", "missing"]}, "again")  # fmt: skip
    rows = open_scores(again).to_table()
    number = rows.schema.get_field_index("run_attempt")
    rows = rows.set_column(number, rows.schema.field(number), pa.array([2, 2], pa.int32()))
    pq.write_table(rows, f"{run}/scores/2.parquet")
    record = json.loads(Path(run, "run.json").read_text())
    record["attempts"].append(record["attempts"][0] | {"files": ["scores/2.parquet"]})
    record["version"] = 2
    Path(run, "run.json").write_text(json.dumps(record))

    summary = filter_run(run, tmp_path / "out", bounds=BOUNDS[:1])
    assert (summary.rows, summary.kept, summary.rejected) == (4, 2, 2)
    assert sorted(pq.read_table(tmp_path / "out/manifest")["pair_id"].to_pylist()) == ["a", "b"]
    assert sorted(pq.read_table(tmp_path / "out/rejects")["pair_id"].to_pylist()) == ["c", "d"]
    (problem,) = problems_of(run, tmp_path / "before", bounds=BOUNDS[:1])
    assert "the same filtering, got another one" in problem


def chosen_columns():
    """Three candidates of each of ten references; the best of every fifth one has a low PSNR."""
    scores = [round(0.1 + 0.01 * ((7 * i) % 30), 3) for i in range(30)]
    psnr = [20.0 if i % 15 == 0 else 30.0 for i in range(30)]
    return {"pair_id": [f"p{i:02}" for i in range(30)],
            "reference_uri": [f"/r{i // 3}.png" for i in range(30)],
            "spips_score": scores, "psnr_db": psnr}  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_best_rows_of_each_reference_that_keep_the_bounds_are_kept(n, write_run, tmp_path):
    columns = chosen_columns()
    bounds = [{"column": "psnr_db", "at_least": 25}]
    best = {"best_per_reference": {"n": n}}
    summary = filter_run(write_run(columns), tmp_path / "out", bounds=bounds, **best)
    frame = pd.DataFrame(columns)
    within = frame[frame.psnr_db >= 25].sort_values(["spips_score", "pair_id"])
    expected = within.groupby("reference_uri").head(n)
    kept = pq.read_table(tmp_path / "out/manifest").to_pandas()
    assert sorted(kept.pair_id) == sorted(expected.pair_id)
    rejected = pq.read_table(tmp_path / "out/rejects").to_pandas()
    which = "the lowest" if n == 1 else f"one of the {n} lowest"
    reasons = dict(zip(rejected.pair_id, rejected[REASON], strict=True))
    assert reasons == {
        pair_id: "not: psnr_db at least 25" if psnr < 25
        else f"not: spips_score is {which} of its reference_uri"
        for pair_id, psnr in zip(frame.pair_id, frame.psnr_db, strict=True)
        if pair_id not in set(expected.pair_id)
    }  # fmt: skip
    assert [rule.removes for rule in summary.rules] == [0, 2, 28 - len(expected)]
    assert summary.rules[2].removes_alone == summary.rules[2].removes


def test_another_number_of_best_rows_is_another_filtering(write_run, tmp_path):
    run, out = write_run(chosen_columns()), tmp_path / "out"
    assert filter_run(run, out, best_per_reference={"n": 2}).kept == 20
    assert filter_run(run, out, best_per_reference={"n": 2}) == "finished"
    (problem,) = problems_of(run, out, best_per_reference={"n": 1})
    assert "expected an empty folder or the same filtering" in problem
