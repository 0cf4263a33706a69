"""The interval of the failed fraction."""

import numpy as np
import pytest
from scipy import stats

from pipeline.audits.figures.distribution import share_interval
from tests.pipeline.audits.conftest import find, run_audit
from tests.pipeline.audits.figures.test_spread import draw, spread_of


def failing(num_references, pairs, failed_references):
    """Columns of a run in which all pairs of some references fail."""
    references = [f"/r{i // pairs}.png" for i in range(num_references * pairs)]
    lost = {f"/r{i}.png" for i in range(failed_references)}
    ok = [reference not in lost for reference in references]
    return {"pair_id": [f"p{i}" for i in range(len(ok))], "reference_uri": references,
            "maker": ["a" if i % 2 else "b" for i in range(len(ok))],
            "status": ["ok" if one else "missing" for one in ok],
            "spips_score": [0.1 if one else None for one in ok]}  # fmt: skip


def test_rows_that_fail_with_their_reference_are_one_draw(write_run):
    gate = {"figure": "failed_fraction", "at_most": 0.05, "with_confidence": True}
    record = run_audit(write_run(failing(60, 16, 6)), gates=[gate], group_by=["maker"]).record
    exact = stats.binomtest(6, 60).proportion_ci(0.95, method="exact")
    for row in (find(record.statuses, of="run", group=()), find(record.statuses, group=("a",))):
        assert row.failed_fraction == 0.1
        # As wide as that of 60 draws, but for Student's t.
        assert (row.failed_low, row.failed_high) == pytest.approx(
            (exact.low, exact.high), abs=0.005
        )
    (judged,) = record.gates
    assert (judged.state, judged.low, judged.high) == ("kept", row.failed_low, row.failed_high)
    alone = run_audit(write_run(failing(960, 1, 96), "alone"), gates=[gate]).record
    assert alone.gates[0].state == "broken"


def test_rows_of_one_reference_make_no_interval(write_run):
    one = failing(1, 20, 0)
    record = run_audit(write_run(one | {"status": ["missing"] + ["ok"] * 19,
                                        "spips_score": [None] + [0.1] * 19})).record  # fmt: skip
    assert (record.statuses[0].failed_low, record.statuses[0].failed_high) == (None, None)


@pytest.mark.parametrize("pairs", [1, 4, 16])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_interval_holds_the_failed_fraction_as_often_as_it_says(pairs, correlation):
    generator, nights, covered = np.random.default_rng(0), 150, 0
    for _ in range(nights):
        values, references = draw(generator, 60, pairs, correlation)
        failed = values > 1.6449  # a share of 0.05
        (effective,) = spread_of(failed, references, [0.0]).effective_rows(len(failed), 0.95)
        low, high = share_interval(failed.mean(), effective, 0.95)
        covered += low <= 0.05 <= high
    # Of 150 nights, 95 % are covered to within 3.6 %.
    assert covered / nights >= 0.89
