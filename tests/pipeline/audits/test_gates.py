import pytest

from pipeline.audits.report import describe_audit, render
from tests.pipeline.audits.conftest import STREAMS, find, run_audit, scores
from tests.pipeline.filters.conftest import num_kept

SURE = {"column": "spips_score", "with_confidence": True}
SHARE = {"column": "spips_score", "figure": "share_above"}


@pytest.mark.parametrize(
    ("gate", "state", "margin"),
    [
        ({"column": "spips_score", "figure": "median", "at_most": 0.2}, "kept", 0.05),
        ({"column": "spips_score", "figure": "p95", "at_most": 0.2}, "broken", -0.05),
        (SURE | {"figure": "mean", "at_most": 0.174}, "kept", -0.000875),
        (SURE | {"figure": "p95", "at_most": 0.2}, "broken", -0.05),
        ({"column": "ssim", "figure": "mean", "at_least": 0.6}, "broken", -0.1),
        ({"column": "ssim", "figure": "mean", "at_least": 0.5}, "kept", 0.0),
        (SHARE | {"threshold": 0.2, "at_most": 0.5}, "kept", 0.25),
        ({"figure": "failed_fraction", "at_most": 0.1}, "broken", -0.1),
        ({"figure": "failed_fraction", "at_most": 0.2}, "kept", 0.0),
    ],
)  # fmt: skip
def test_a_verdict_has_the_state_bound_and_margin(gate, state, margin, write_run):
    half = [0.15] * 300 + [0.25] * 100
    columns = {"spips_score": [*half, *([None] * 100)], "ssim": [0.5] * 400 + [None] * 100,
               "pair_id": [f"{i}" for i in range(500)],
               "status": ["ok"] * 400 + ["missing"] * 100}  # fmt: skip
    columns["spips_score"][0] = 0.1
    (judged,) = run_audit(write_run(columns), gates=[gate]).record.gates
    assert judged.state == state
    assert judged.margin == pytest.approx(margin, abs=1e-6)
    assert judged.bound == next(gate[n] for n in ("at_most", "at_least") if n in gate)


def test_every_group_must_keep_a_gate_on_each_group(write_run):
    columns = scores()
    columns["maker"] = ["good"] * 200 + ["bad"] * 100 + ["failed"] * 50 + [None] * 50
    columns["status"] = ["ok"] * 300 + ["missing"] * 50 + ["ok"] * 50
    columns["spips_score"] = [0.1] * 200 + [0.5] * 100 + [None] * 50 + [0.1] * 50
    gate = {"column": "spips_score", "figure": "mean", "at_most": 0.3, "each_group": True}
    found = run_audit(write_run(columns), group_by=["maker"], gates=[gate])
    states = {gate.group: gate.state for gate in found.record.gates}
    assert states == {("good",): "kept", ("bad",): "broken", ("failed",): "not judged",
                      (None,): "kept"}  # fmt: skip
    text = describe_audit(found.record)
    assert "mean of spips_score at most 0.3 (failed): no row of the group has a value" in text
    assert "1 gate BROKEN" in text


@pytest.mark.parametrize(
    ("bounds", "num_pairs", "expected"),
    [
        ((0,), 1, ["1 gate BROKEN", "Failed: 1 of 1 gate broken"]),
        ((0, 0), 2, ["2 gates BROKEN", "Failed: 2 of 2 gates broken", "This compares the 2 pairs"]),
        ((9,), 1, ["1 row, ", "Passed: 1 gate kept", "This compares the 1 pair in both runs."]),
        ((9, 9), 2, ["2 rows, ", "Passed: all 2 gates kept", "It has 2 rows, of which"]),
    ],
)
def test_one_thing_is_singular_and_more_are_plural(write_run, bounds, num_pairs, expected):
    gates = [{"column": "spips_score", "figure": "mean", "at_most": bound} for bound in bounds]
    columns = {"pair_id": [str(i) for i in range(num_pairs)], "spips_score": [0.5] * num_pairs}
    found = run_audit(write_run(columns), write_run(columns, "before"), gates=gates)
    text = describe_audit(found.record) + render(found, {}, ())
    assert [words for words in expected if words not in text] == []


def test_a_gate_on_a_change_bounds_the_rise_or_the_fall(write_run):
    worse = dict.fromkeys(STREAMS, 0.5)
    now, before = write_run(scores(seed=1, worse=worse)), write_run(scores(seed=2), "before")
    gate = {"column": "spips_score", "figure": "mean"}
    rises, falls = run_audit(
        now, before, gates=[gate | {"rise_at_most": 0.001}, gate | {"fall_at_most": 0.001}]
    ).record.gates
    assert (rises.state, falls.state) == ("broken", "kept")
    assert rises.figure == -falls.figure > 0
    assert (rises.low, rises.high) == (-falls.high, -falls.low)
    assert rises.margin == pytest.approx(0.001 - rises.figure)
    assert falls.margin == pytest.approx(0.001 + rises.figure)


def test_a_bound_beyond_the_figure_but_inside_its_interval_is_explained(write_run):
    ids = [f"p{i}" for i in range(30)]
    before = {"pair_id": ids, "spips_score": [0.2] * 30}
    now = {"pair_id": ids, "spips_score": [0.2] * 20 + [0.28] * 10}
    gate = {"column": "spips_score", "figure": "mean", "rise_at_most": 0.02,
            "with_confidence": True}  # fmt: skip
    found = run_audit(write_run(now), write_run(before, "before"), gates=[gate])
    (judged,) = found.record.gates
    assert judged.state == "kept"
    assert judged.low < 0.02 < judged.figure
    words = (f"the rise {judged.figure:.5g} is above the bound 0.02, but its 95% interval "
             f"{judged.low:.5g} to {judged.high:.5g} includes values that are not")  # fmt: skip
    assert judged.reason == words
    rule = "mean of spips_score rises by at most 0.02, with confidence (all rows)"
    assert f"kept       {rule}: {words}" in describe_audit(found.record)
    assert f"kept: {words}" in render(found, {}, ())
    assert words in found.record.to_json().decode()


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 0.9])
def test_a_bound_is_compared_as_the_float32_that_the_scores_are(value, write_run):
    n = 30
    columns = {"pair_id": [f"p{i}" for i in range(n)], "spips_score": [value] * n,
               "ssim": [value] * n, "status": ["ok"] * n}  # fmt: skip
    gates = [{"column": column, "figure": figure, bound: value, "with_confidence": sure}
             for column in ("spips_score", "ssim") for figure in ("mean", "median", "p5", "p99")
             for bound in ("at_most", "at_least") for sure in (True, False)]  # fmt: skip
    share = {"column": "ssim", "figure": "share_above", "threshold": value, "at_most": 0}
    run = write_run(columns)
    record = run_audit(run, gates=[*gates, share], thresholds={"spips_score": [value]}).record
    assert {gate.state for gate in record.gates} == {"kept"}
    assert {gate.margin for gate in record.gates} == {0}
    assert find(record.figures, column="spips_score").share_above[0].value == 0
    for bound in ("at_most", "at_least"):
        assert num_kept(run, [{"column": "ssim", bound: value}]) == n
        assert num_kept(run, [{"column": "ssim", f"{bound}_quantile": 0.3}]) == n


def test_a_failed_fraction_is_exactly_the_bound(write_run):
    columns = {"pair_id": [f"p{i}" for i in range(10)], "spips_score": [None] * 3 + [0.1] * 7,
               "status": ["missing"] * 3 + ["ok"] * 7}  # fmt: skip
    gate = {"figure": "failed_fraction", "at_most": 0.3}
    assert run_audit(write_run(columns), gates=[gate]).record.gates[0].margin == 0
