from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipeline.filters.rules import describe_summary
from pipeline.runs.errors import ContractError
from tests.pipeline.filters.conftest import BOUNDS, filtered_columns, rules_of, summary_of


def problems_of(uri, bounds, **settings):
    with pytest.raises(ContractError) as caught:
        summary_of(uri, bounds, **settings)
    return caught.value.problems


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
def test_quantiles_within_columns_of_any_plain_type(values, write_run):
    rows = filtered_columns(100) | {"maker": [values[i % 2] for i in range(100)]}
    bounds = [{"column": "spips_score", "at_most_quantile": 0.5, "within": ["maker"]}]
    frame = pd.DataFrame({name: rows[name] for name in ("status", "spips_score")})
    expected = sum(
        (half.spips_score.astype("float32") <= np.float32(half.spips_score.median())).sum()
        for half in (frame[::2], frame[1::2])
    )
    assert summary_of(write_run(rows), bounds).kept == expected


def test_wrong_columns_are_named_all_at_once(write_run):
    bounds = [
        {"column": "ssim", "at_least": 0.5},
        {"column": "spips_score", "at_most_quantile": 0.5, "within": ["prompt"]},
    ]
    first, second = problems_of(write_run(filtered_columns()), bounds)
    assert first.startswith("bounds.0.column: expected one with values")
    assert "got 'prompt'" in second
    nested = filtered_columns() | {"tags": [["x"]] * 200}
    bounds = [{"column": "spips_score", "at_most_quantile": 0.5, "within": ["tags"]}]
    (problem,) = problems_of(write_run(nested, "nested"), bounds)
    assert "expected texts, numbers, flags, dates or times in column 'tags'" in problem


def test_rows_are_kept_up_to_an_expected_dmos_if_the_checkpoint_has_a_scale(write_run):
    bounds = [{"column": "expected_dmos", "at_most": 40}]
    (problem,) = problems_of(write_run(filtered_columns()), bounds)
    assert problem.endswith("got 'expected_dmos': checkpoint embedded has no scale for it")
    rated = filtered_columns() | {"expected_dmos": [None] * 5 + [10.0, 40.0, 40.1] * 65}
    assert summary_of(write_run(rated, "rated"), bounds).kept == 130


def test_rows_are_kept_up_to_an_lpips_if_the_run_was_scored_with_it(write_run):
    bounds = [{"column": "lpips", "at_most": 0.2}]
    (problem,) = problems_of(write_run(filtered_columns()), bounds)
    assert problem.endswith("got 'lpips': the run was scored without model.lpips")
    run = write_run(filtered_columns() | {"lpips": [None] * 5 + [0.1, 0.2, 0.3] * 65}, "with")
    assert summary_of(run, bounds).kept == 130


def test_a_run_with_a_column_of_the_filter_s_own_is_refused(write_run):
    run = write_run(filtered_columns() | {"reject_reason": ["x"] * 200})
    (problem,) = problems_of(run, BOUNDS)
    assert problem.startswith("scores.uri: expected results without a column 'reject_reason'")


def test_a_column_given_twice_is_refused(write_run):
    twice = [{"column": "ssim", "at_most_quantile": 0.5, "within": ["maker", "maker"]}]
    with pytest.raises(ValidationError, match="expected each column once"):
        summary_of(write_run(filtered_columns()), twice)


def test_of_equal_scores_the_first_pair_is_the_best_one(write_run):
    columns = {"pair_id": ["b", "a", "c", "d"], "reference_uri": ["/r.png"] * 4,
               "spips_score": [0.1, 0.1, 0.1, 0.2]}  # fmt: skip
    rules = rules_of(write_run(columns), best_per_reference={"n": 2})
    assert sorted(rules.best.ids.to_pylist()) == ["a", "b"]


def test_rows_without_a_score_or_a_reference_are_not_the_best(write_run):
    columns = {"pair_id": list("abcd"), "scene": ["x", "x", None, "y"],
               "status": ["missing", "ok", "ok", "missing"],
               "spips_score": [None, 0.2, 0.1, None]}  # fmt: skip
    best = {"reference_column": "scene"}
    run = write_run(columns)
    rules = rules_of(run, statuses=["ok", "missing"], best_per_reference=best)
    assert rules.best.ids.to_pylist() == ["b"]
    (problem,) = problems_of(run, [], best_per_reference={"reference_column": "prompt"})
    assert problem.startswith("best_per_reference.reference_column: expected a pass-through column")


def test_the_best_of_references_of_any_plain_type_are_kept(write_run):
    columns = {"pair_id": [f"p{i}" for i in range(8)], "scene": [1.5, 2.0] * 4,
               "spips_score": [0.1 * i for i in range(8)]}  # fmt: skip
    best = {"n": 1, "reference_column": "scene"}
    assert summary_of(write_run(columns), [], best_per_reference=best).kept == 2


def test_the_summary_shows_a_histogram_and_what_each_bound_removes(write_run):
    summary = summary_of(write_run(filtered_columns()), BOUNDS)
    text = describe_summary(summary)
    assert "not: psnr_db at least 25" in text
    assert summary.histogram.sum() == 195
    assert text.count("\n0.") + text.count("\n   0.") == 20


def test_a_run_without_any_score_has_no_values_to_bound(write_run):
    failed = {"pair_id": ["a", "b"], "status": ["missing", "missing"]}
    (problem,) = problems_of(write_run(failed), [{"column": "spips_score", "at_most": 1}])
    assert "expected one with values, none, got 'spips_score': no row is ok" in problem
