import json
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from pipeline.audits.config import FilterScoresConfig
from pipeline.audits.filter import REASON, open_output, write_filtered
from pipeline.audits.filter_rules import describe_summary, make_rules, summarise
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import open_run, open_scores


@pytest.fixture(scope="module", autouse=True)
def ray_cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def columns(n=200):
    generator = np.random.default_rng(0)
    status = ["missing"] * 5 + ["ok"] * (n - 5)
    ok = np.array(status) == "ok"
    score = np.where(ok, generator.lognormal(-2, 0.8, n), np.nan)
    return {
        "pair_id": [f"p{i}" for i in range(n)],
        "maker": [["a", "b", None][i % 3] for i in range(n)],
        "status": status,
        "spips_score": [None if np.isnan(s) else float(np.float32(s)) for s in score],
        "psnr_db": [40 - i % 20 if s == "ok" else None for i, s in enumerate(status)],
    }


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
    return write_filtered(config, output, opened, rules, summary)


def problems_of(*arguments, **settings):
    with pytest.raises(ContractError) as caught:
        filter_run(*arguments, **settings)
    return caught.value.problems


BOUNDS = [
    {"column": "spips_score", "at_most": 0.3},
    {"column": "psnr_db", "at_least": 25},
    {"column": "spips_score", "at_most_quantile": 0.8, "within": ["maker"]},
]


def test_every_row_is_kept_or_rejected_with_all_its_reasons(write_run, tmp_path):
    twice = [*BOUNDS, BOUNDS[0]]
    told = filter_run(write_run(columns()), tmp_path / "out", bounds=twice)
    frame = pd.DataFrame(columns())
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
    assert told["kept"] == len(expected)
    alone = broken[broken.sum(axis=1) == 1]
    for rule in told["rules"]:
        assert rule["removes"] == broken[rule["rule"]].sum()
        assert rule["removes_alone"] == alone[rule["rule"]].sum()
    assert json.loads((tmp_path / "out/summary.json").read_text()) == told


def test_a_finished_filtering_is_left_alone_and_an_unfinished_one_replaced(write_run, tmp_path):
    run, out = write_run(columns()), tmp_path / "out"
    told = filter_run(run, out, bounds=BOUNDS)
    assert filter_run(run, out, bounds=BOUNDS) == "finished"
    (problem,) = problems_of(run, out, bounds=BOUNDS[:1])
    assert "expected a free folder or one of the same filtering" in problem
    (out / "summary.json").unlink()
    assert filter_run(run, out, bounds=BOUNDS) == told
    assert pq.read_table(out / "manifest").num_rows == told["kept"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    assert problems_of(run, tmp_path / "mine", bounds=BOUNDS)


def test_failed_rows_can_be_picked_to_be_scored_again(write_run, tmp_path):
    told = filter_run(write_run(columns()), tmp_path / "out", statuses=["missing"])
    assert told["kept"] == 5
    assert pq.read_table(tmp_path / "out/manifest")["pair_id"].to_pylist() == [
        f"p{i}" for i in range(5)
    ]


def test_bounds_that_keep_nothing_are_refused_with_what_each_removes(write_run, tmp_path):
    (problem,) = problems_of(
        write_run(columns()), tmp_path / "out", bounds=[{"column": "spips_score", "at_most": 0}]
    )
    assert (
        "expected rows to keep, got none of 200: 5 are not: status is ok; 195 are not: spips"
        in problem
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "values",
    [
        [1.5, 2.0],
        [True, False],
        [datetime(2026, 1, 1), datetime(2026, 1, 2, 3)],
        [float("nan"), 1.0],
        [10**12, -3],
        [date(2026, 1, 1), None],
    ],
    ids=str,
)
def test_quantiles_within_columns_of_any_plain_type(values, write_run, tmp_path):
    rows = columns(100) | {"maker": [values[i % 2] for i in range(100)]}
    bounds = [{"column": "spips_score", "at_most_quantile": 0.5, "within": ["maker"]}]
    run = open_run(write_run(rows))
    config = FilterScoresConfig.model_validate(
        {"scores": {"uri": run.uri}, "output": {"uri": "unused"}, "bounds": bounds}
    )
    frame = pd.DataFrame({name: rows[name] for name in ("status", "spips_score")})
    expected = sum(
        (half.spips_score.astype("float32") <= np.float32(half.spips_score.median())).sum()
        for half in (frame[::2], frame[1::2])
    )
    assert summarise(make_rules(config, run), run).kept == expected


def test_wrong_columns_are_named_all_at_once(write_run, tmp_path):
    bounds = [
        {"column": "ssim", "at_least": 0.5},
        {"column": "spips_score", "at_most_quantile": 0.5, "within": ["prompt"]},
    ]
    first, second = problems_of(write_run(columns()), tmp_path / "out", bounds=bounds)
    assert first.startswith("bounds.0.column: expected one with values")
    assert "got 'prompt'" in second
    nested = columns() | {"tags": [["x"]] * 200}
    bounds = [{"column": "spips_score", "at_most_quantile": 0.5, "within": ["tags"]}]
    (problem,) = problems_of(write_run(nested, "nested"), tmp_path / "out", bounds=bounds)
    assert "expected texts, numbers, flags or times in column 'tags'" in problem


def test_the_summary_shows_a_histogram_and_what_each_bound_removes(write_run):
    run = open_run(write_run(columns()))
    config = FilterScoresConfig.model_validate(
        {"scores": {"uri": run.uri}, "output": {"uri": "unused"}, "bounds": BOUNDS}
    )
    summary = summarise(make_rules(config, run), run)
    text = describe_summary(summary)
    assert "not: psnr_db at least 25" in text
    assert summary.histogram.sum() == 195
    assert text.count("\n0.") + text.count("\n   0.") == 20


def test_a_run_without_any_score_has_no_values_to_bound(write_run, tmp_path):
    failed = {"pair_id": ["a", "b"], "status": ["missing", "missing"]}
    (problem,) = problems_of(
        write_run(failed), tmp_path / "out", bounds=[{"column": "spips_score", "at_most": 1}]
    )
    assert "expected one with values, none, got 'spips_score'" in problem


def test_of_a_retried_run_the_newest_rows_are_filtered(write_run, tmp_path):
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
    Path(run, "run.json").write_text(json.dumps(record))

    told = filter_run(run, tmp_path / "out", bounds=BOUNDS[:1])
    assert (told["rows"], told["kept"], told["rejected"]) == (4, 2, 2)
    assert sorted(pq.read_table(tmp_path / "out/manifest")["pair_id"].to_pylist()) == ["a", "b"]
    assert sorted(pq.read_table(tmp_path / "out/rejects")["pair_id"].to_pylist()) == ["c", "d"]
    assert (
        "one of the same filtering, got another"
        in problems_of(run, tmp_path / "before", bounds=BOUNDS[:1])[0]
    )
