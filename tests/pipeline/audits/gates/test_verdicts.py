import pytest

from pipeline.audits.gates.verdicts import headline_of
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
    assert found.record.verdict == (
        "bad: mean of spips_score 0.5, allowed 0.3; and 1 gate is not judged (failed)"
    )


@pytest.mark.parametrize(
    ("bounds", "num_pairs", "expected"),
    [
        ((0,), 1, ["0.5, allowed 0 ", "This compares the 1 pair in both runs."]),
        ((0, 0), 2, ["; and 1 more gate is broken ", "This compares the 2 pairs"]),
        ((0, 0, 0), 2, ["; and 2 more gates are broken ", "This compares the 2 pairs"]),
        ((9,), 1, ["1 row, ", "Passed: the gate is kept "]),
        ((9, 9), 2, ["2 rows, ", "Passed: all 2 gates are kept ", "Run night, 2 rows, model "]),
        ((), 2, ["<title>no gate is set "]),
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
    assert rises.value == -falls.value > 0
    assert (rises.low, rises.high) == (-falls.high, -falls.low)
    assert rises.margin == pytest.approx(0.001 - rises.value)
    assert falls.margin == pytest.approx(0.001 + rises.value)


def test_a_bound_beyond_the_figure_but_inside_its_interval_is_explained(write_run):
    ids = [f"p{i}" for i in range(30)]
    before = {"pair_id": ids, "spips_score": [0.2] * 30}
    now = {"pair_id": ids, "spips_score": [0.2] * 20 + [0.28] * 10}
    gate = {"column": "spips_score", "figure": "mean", "rise_at_most": 0.02,
            "with_confidence": True}  # fmt: skip
    found = run_audit(write_run(now), write_run(before, "before"), gates=[gate])
    (judged,) = found.record.gates
    assert judged.state == "kept"
    assert judged.low < 0.02 < judged.value
    words = (f"the rise {judged.value:.5g} is above the bound 0.02, but its 95% interval "
             f"{judged.low:.5g} to {judged.high:.5g} includes values that are not")  # fmt: skip
    assert judged.reason == words
    rule = "mean of spips_score rises by at most 0.02, with confidence (all rows)"
    assert f"kept       {rule}: {words}" in describe_audit(found.record)
    assert f"<small>{words}</small>" in render(found, {}, ())
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


def makers(**values):
    """Columns of a run with thirty rows of each maker, all with the same score."""
    names = [name for name in values for _ in range(30)]
    return {"pair_id": [f"p{i}" for i in range(len(names))], "maker": names,
            "spips_score": [values[name] for name in names],
            "ssim": [1 - values[name] for name in names]}  # fmt: skip


def gate_on(figure="p95", column="spips_score", **more):
    return {"figure": figure, "column": column, "each_group": True} | more


def test_the_verdict_names_the_gate_that_is_furthest_beyond_its_bound(write_run):
    gates = [
        {"figure": "failed_fraction", "at_most": 0.1},
        gate_on(at_most=0.35),
        gate_on("median", "ssim", at_least=0.68),
    ]
    run = write_run(makers(model_a=0.36, model_b=0.4))
    record = run_audit(run, group_by=["maker"], gates=gates).record
    verdict = (
        "model_b: p95 of spips_score 0.4, allowed 0.35; and 3 more gates are broken (model_b, "
        "model_a)"
    )
    assert record.verdict == verdict
    assert headline_of(record) == f"Failed: {verdict}"
    assert [(gate.state, gate.group, gate.figure) for gate in record.gates] == [
        ("broken", ("model_b",), "p95"),  # 0.05 or 14 % beyond the bound
        ("broken", ("model_b",), "median"),  # 0.08 or 12 %
        ("broken", ("model_a",), "median"),  # 0.04 or 6 %
        ("broken", ("model_a",), "p95"),  # 0.01 or 3 %
        ("kept", (), "failed_fraction"),
    ]
    run = write_run(makers(a=0.5, b=0.4, c=0.4, d=0.4), "more")
    record = run_audit(run, group_by=["maker"], gates=gates[1:2]).record
    assert record.verdict.endswith("0.35; and 3 more gates are broken (b, c, ...)")


def test_broken_gates_come_first_then_those_not_judged_then_those_kept(write_run, tmp_path):
    gates = [gate_on("mean", at_most=0.3, each_group=False), gate_on("mean", rise_at_most=0.01),
             gate_on("mean", at_most=0.1), gate_on("p95", at_most=0)]  # fmt: skip
    run, folder = write_run(makers(a=0.2)), str(tmp_path / "scores")
    record = run_audit(run, folder, group_by=["maker"], gates=gates).record
    assert [(gate.state, gate.bound) for gate in record.gates] == [
        ("broken", 0), ("broken", 0.1), ("not judged", 0.01), ("kept", 0.3),
    ]  # fmt: skip
    assert record.verdict == (
        "a: p95 of spips_score 0.2, allowed 0; and 1 more gate is broken and 1 gate is not judged"
    )
    unjudged = run_audit(run, folder, group_by=["maker"], gates=gates[:2] * 2).record
    assert headline_of(unjudged) == (
        "Not judged: a: mean of spips_score: nothing to compare with; and 1 more gate is not judged"
    )


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        (gate_on(at_most=0.35), "p95 of spips_score 0.4, allowed 0.35"),
        (gate_on("median", "ssim", at_least=0.9), "median of ssim 0.6, required 0.9"),
        (gate_on("mean", rise_at_most=0.01), "mean of spips_score rose by 0.1, allowed 0.01"),
        (gate_on("mean", "ssim", fall_at_most=0.05), "mean of ssim fell by 0.1, allowed 0.05"),
        (gate_on("share_above", threshold=0.3, at_most=0.1),
         "share of spips_score above 0.3 is 1, allowed 0.1"),
        (gate_on(at_most=0.3999999), "p95 of spips_score 0.4, allowed 0.3999999"),
        (gate_on(at_least=0.40004), "p95 of spips_score 0.4, required 0.40004"),
        (gate_on(at_most=0.39996), "p95 of spips_score 0.4, allowed 0.39996"),
    ],
)  # fmt: skip
def test_a_verdict_says_what_broke_where_and_by_how_much(gate, verdict, write_run):
    now, before = write_run(makers(b=0.4)), write_run(makers(b=0.3), "before")
    record = run_audit(now, before, group_by=["maker"], gates=[gate]).record
    assert record.verdict == f"b: {verdict}"


def test_a_value_is_shown_with_the_digits_that_tell_it_from_its_bound(write_run):
    run = write_run(makers(b=0.350002))
    record = run_audit(run, gates=[gate_on(at_most=0.35)]).record
    assert record.verdict == "all rows: p95 of spips_score 0.350002, allowed 0.35"


def test_a_run_without_values_is_named_in_the_verdict(write_run):
    columns = {"pair_id": ["a"], "status": ["missing"], "spips_score": [None]}
    record = run_audit(write_run(columns), gates=[gate_on(at_most=1)]).record
    assert record.verdict == "no row has a score: 1 row failed; 1 gate is broken"
    assert record.gates[0].reason == "no row has a value"
