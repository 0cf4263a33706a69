import pytest

from pipeline.audits.report import describe_audit
from tests.pipeline.audits.conftest import STREAMS, run_audit, scores

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
    assert states == {("good",): "kept", ("bad",): "broken", ("failed",): "broken", (None,): "kept"}
    text = describe_audit(found.record)
    assert "mean of spips_score at most 0.3 (failed): no row has a value" in text
    assert "2 gates BROKEN" in text


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
