import json
import math
import uuid
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pipeline.audits.records import AuditRecord
from pipeline.audits.report import describe_audit, render
from tests.pipeline.audits.conftest import STREAMS, find, problems_of, run_audit, scores


def test_figures_are_those_that_pandas_gives(write_run):
    columns = scores(num_failed=5)
    record = run_audit(
        write_run(columns), group_by=["maker"], thresholds={"psnr_db": [30.0]}
    ).record
    frame = pd.DataFrame(columns)
    for group, rows in (
        ((), frame),
        (("a",), frame[frame.maker == "a"]),
        (("b",), frame[frame.maker == "b"]),
    ):
        for column in ("spips_score", "percept_score", "psnr_db"):
            values = rows[column].astype("float32").astype(float).dropna()
            row = find(record.figures, group=group, column=column)
            finite = values[np.isfinite(values)]
            assert (row.rows, row.infinite_rows) == (len(values), len(values) - len(finite))
            assert row.mean.value == pytest.approx(finite.mean())
            for name, q in (("p5", 0.05), ("median", 0.5), ("p95", 0.95), ("p99", 0.99)):
                figure = getattr(row, name)
                assert figure.value == pytest.approx(values.quantile(q))
                assert figure.low <= figure.value <= figure.high
        assert row.share_above[0].value == pytest.approx((values > 30).mean())
        counts = find(record.statuses, group=group).counts
        assert counts["missing"] == (rows.status == "missing").sum()
    assert [f.pair_id for f in record.failures] == ["p0", "p1", "p2"]
    assert "ssim" not in {row.column for row in record.figures}


def test_changes_are_those_of_the_pairs_in_both_runs(write_run):
    now, before = scores(seed=1, worse={"percept_score": 0.2}, num_failed=3), scores(seed=2)
    del now["maker"]
    before = {name: values[:390] for name, values in before.items()}
    found = run_audit(write_run(now), write_run(before, "before"))
    change = find(found.record.changes, column="spips_score")
    both = pd.DataFrame(now).merge(pd.DataFrame(before), on="pair_id")
    rises = (both.spips_score_x.astype("float32") - both.spips_score_y.astype("float32")).dropna()
    assert change.is_paired
    assert change.pairs_in_both == len(rises) == 387
    assert change.rise.value == pytest.approx(rises.mean(), rel=1e-4)
    assert change.rose == (rises > 0).sum()
    assert change.paired_effect == pytest.approx(rises.mean() / rises.std(), rel=1e-4)
    assert found.record.change == "worse"
    parts = {row.stream: row.contribution for row in found.record.streams}
    assert max(parts, key=parts.get) == "percept"
    assert sum(parts.values()) == pytest.approx(change.rise.value, rel=1e-4)
    assert found.sheets["most changed"][0].rise == pytest.approx(
        rises[rises.abs().idxmax()], rel=1e-4
    )


def test_runs_without_common_pairs_are_compared_by_their_means(write_run):
    other = scores(seed=3)
    other["pair_id"] = [f"other {i}" for i in range(400)]
    found = run_audit(write_run(scores(worse={"semantic_score": 1.0})), write_run(other, "before"))
    change = find(found.record.changes, column="spips_score")
    assert not change.is_paired
    assert change.pairs_in_both == 0
    assert change.rise.low > 0
    assert change.rank_effect > 0.1
    assert "most changed" not in found.sheets


def test_a_planted_regression_is_found_and_noise_is_not(write_run):
    gate = {
        "column": "spips_score",
        "figure": "mean",
        "rise_at_most": 0.001,
        "with_confidence": True,
    }
    states = {}
    for worse in (0.0, 0.05):
        for seed in range(4):
            before = write_run(scores(seed=100 + seed), f"before-{worse}-{seed}")
            run = write_run(
                scores(seed=seed, worse=dict.fromkeys(STREAMS, worse)), f"{worse}-{seed}"
            )
            record = run_audit(run, before, gates=[gate]).record
            states.setdefault(worse, []).append((record.gates[0].state, record.change))
    assert states[0.05] == [("broken", "worse")] * 4
    assert [state for state, _ in states[0.0]] == ["kept"] * 4


def test_a_run_without_any_score_breaks_its_gates(write_run):
    columns = scores(n=20, num_failed=20)
    columns["psnr_db"] = [None] * 20
    gate = {"column": "spips_score", "figure": "p95", "at_most": 1}
    found = run_audit(write_run(columns), write_run(scores(n=20), "before"), gates=[gate])
    assert found.record.change == "not compared"
    assert found.record.gates[0].reason == "no row has a value"
    assert not found.record.passed
    assert found.record.trend[-1].mean is None
    assert not found.sheets


def test_a_note_names_a_group_that_vanished(write_run):
    now = {name: values[1::4] for name, values in scores().items()}
    record = run_audit(write_run(now), write_run(scores(), "before"), group_by=["maker"]).record
    assert record.notes == ("group b is in the baseline but not in this run",)


def test_a_gate_on_a_column_that_the_model_does_not_fill_is_refused(write_run):
    gate = {"column": "ssim", "figure": "mean", "at_most": 1}
    (problem,) = problems_of(write_run(scores()), gates=[gate])
    assert problem.startswith("gates.0.column: expected a column with values")
    assert "got 'ssim'" in problem


def test_a_gate_on_expected_dmos_says_that_the_checkpoint_has_no_scale(write_run):
    gate = {"column": "expected_dmos", "figure": "mean", "at_most": 40}
    (problem,) = problems_of(write_run(scores()), gates=[gate])
    assert problem.endswith("got 'expected_dmos': checkpoint embedded has no scale for it")
    rated = scores() | {"expected_dmos": [30.0] * 399 + [90.0]}
    record = run_audit(write_run(rated, "rated"), gates=[gate]).record
    assert [(row.state, row.margin) for row in record.gates] == [("kept", pytest.approx(9.85))]


def test_a_gate_on_lpips_needs_a_run_that_was_scored_with_it(write_run):
    gate = {"column": "lpips", "figure": "median", "at_most": 0.2}
    (problem,) = problems_of(write_run(scores()), gates=[gate])
    assert problem.endswith("got 'lpips': the run was scored without model.lpips")
    run = write_run(scores() | {"lpips": [0.3] * 400}, "with")
    assert [row.state for row in run_audit(run, gates=[gate]).record.gates] == ["broken"]


def test_identical_pairs_keep_a_gate_on_psnr(write_run):
    identical = {"pair_id": [f"p{i}" for i in range(20)], "spips_score": [0.0] * 20,
                 "psnr_db": [math.inf] * 20}  # fmt: skip
    gates = [
        {"column": "psnr_db", "figure": "median", "at_least": 25},
        {"column": "psnr_db", "figure": "mean", "at_least": 25, "with_confidence": True},
        {"column": "psnr_db", "figure": "p95", "at_most": 60},
        {"column": "psnr_db", "figure": "share_above", "threshold": 100, "at_least": 1},
        {"column": "psnr_db", "figure": "mean", "fall_at_most": 1, "with_confidence": True},
    ]
    run, same = write_run(identical), write_run(identical, "same")
    record = run_audit(run, same, gates=gates).record
    assert [gate.state for gate in record.gates] == ["broken", "kept", "kept", "kept", "kept"]
    change = find(record.changes, column="psnr_db")
    assert (change.equal, change.rise.value, change.rise.low) == (20, 0, 0)
    content = json.loads(record.to_json())
    assert content["gates"][1]["value"] == content["gates"][1]["margin"] == "Infinity"
    assert AuditRecord.model_validate(content) == record
    table = record.to_table().to_pylist()
    medians = [row for row in table if (row["figure"], row["column"]) == ("median", "psnr_db")]
    assert [(row["value"], row["low"]) for row in medians] == [(math.inf, math.inf)] * 2
    assert "median of psnr_db at least 25 (all rows): inf" in describe_audit(record)
    others = identical | {"pair_id": [f"q{i}" for i in range(20)]}
    unpaired = find(run_audit(run, write_run(others, "q")).record.changes, column="psnr_db")
    assert (unpaired.is_paired, unpaired.rise.value, unpaired.rise.high) == (False, 0, 0)


def test_pairs_that_are_no_longer_identical_fell(write_run):
    ids = [f"p{i}" for i in range(40)]
    before = {"pair_id": ids, "spips_score": [0.1] * 40, "psnr_db": [math.inf] * 20 + [30.0] * 20}
    run = write_run(before | {"psnr_db": [20.0] * 20 + [31.0] * 20})
    gate = {"column": "psnr_db", "figure": "mean", "fall_at_most": 1}
    record = run_audit(run, write_run(before, "before"), gates=[gate]).record
    change = find(record.changes, column="psnr_db")
    assert (change.fell, change.rose, change.pairs_in_both) == (20, 20, 40)
    assert change.rise.value == pytest.approx(1)  # of the 20 pairs that are finite in both runs
    assert find(record.figures, column="psnr_db", of="baseline").mean.value == 30
    all_identical = before | {"psnr_db": [math.inf] * 40}
    other = run_audit(run, write_run(all_identical, "identical"), gates=[gate]).record
    assert (other.gates[0].state, other.gates[0].value) == ("broken", math.inf)
    unpaired = all_identical | {"pair_id": [f"q{i}" for i in range(40)]}
    other = run_audit(run, write_run(unpaired, "unpaired"), gates=[gate]).record
    assert (other.gates[0].state, other.gates[0].value) == ("broken", math.inf)


@pytest.mark.parametrize(("num_pairs", "change"), [(1, "too few pairs"), (9, "too few pairs"),
                                                   (10, "worse")])  # fmt: skip
@pytest.mark.parametrize("prefix", ["p", "q"])
def test_fewer_than_ten_pairs_make_no_verdict(num_pairs, change, prefix, write_run):
    ids = range(num_pairs)
    before = {"pair_id": [f"p{i}" for i in ids], "spips_score": [0.1] * num_pairs}
    now = {"pair_id": [f"{prefix}{i}" for i in ids], "spips_score": [0.2] * num_pairs}
    gate = {"column": "spips_score", "figure": "mean", "with_confidence": True}
    gates = [gate | {"rise_at_most": 0.01}, gate | {"at_most": 0.1}, gate | {"at_most": 0.3},
             {"figure": "failed_fraction", "at_most": 0, "with_confidence": True}]  # fmt: skip
    found = run_audit(write_run(now), write_run(before, "before"), gates=gates)
    record = found.record
    assert record.change == change
    is_enough = change == "worse"
    beyond = "broken" if is_enough else "not judged"
    assert [gate.state for gate in record.gates] == [beyond, beyond, "kept", "kept"]
    (row,) = (row for row in record.figures if row.of == "run")
    assert (row.median.low is None) == (row.share_above[0].low is None) == (not is_enough)
    text = describe_audit(record)
    assert ("too few to say: expected at least 10 rows" in text) == (not is_enough)
    assert ("fewer than 10 pairs, no interval" in text) == (not is_enough)
    assert json.loads(record.to_json())["change"] == change
    assert ("Too few pairs to say" in render(found, {}, ())) == (not is_enough)


VALUES = st.lists(st.sampled_from([None, math.inf, 0.0, 0.3, 40.0]), min_size=1, max_size=14)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(now=VALUES, before=VALUES, first=st.integers(0, 9))
@example(now=[math.inf, 0.0], before=[0.0, math.inf], first=0)
def test_an_audit_of_any_values_has_no_nan(now, before, first, write_run, tmp_path):
    def columns(values, start):
        return {"pair_id": [f"p{start + i}" for i in range(len(values))], "psnr_db": values,
                "maker": ["a" if i % 3 else None for i in range(len(values))],
                "spips_score": [0.1] * len(values)}  # fmt: skip

    bounds = [{"at_least": 25}, {"at_most": 30}, {"rise_at_most": 1}, {"fall_at_most": 1}]
    gates = [{"column": "psnr_db", "figure": "mean", "with_confidence": sure, "each_group": each}
             | bound for sure in (True, False) for each in (True, False)
             for bound in bounds]  # fmt: skip
    assume(any(value is not None for value in now))  # otherwise the model does not fill the column
    write = partial(write_run, folder=tmp_path / uuid.uuid4().hex)
    run, earlier = write(columns(now, 0)), write(columns(before, first), "before")
    found = run_audit(run, earlier, gates=gates, group_by=["maker"])
    assert AuditRecord.model_validate(json.loads(found.record.to_json())) == found.record
    assert "nan" not in describe_audit(found.record)
