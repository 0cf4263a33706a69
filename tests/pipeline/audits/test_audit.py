import numpy as np
import pandas as pd
import pytest

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
            values = rows[column].astype("float32").astype(float)
            values = values[np.isfinite(values)]
            row = find(record.figures, group=group, column=column)
            assert row.rows == len(values)
            assert row.mean.value == pytest.approx(values.mean())
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
