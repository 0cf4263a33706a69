import numpy as np
import pytest

from pipeline.audits.figures.tables import open_tables
from pipeline.audits.page.charts import Scale, draw_distributions, draw_trend
from pipeline.audits.records import TrendPoint
from pipeline.runs.finished import open_run


@pytest.fixture
def distribution(write_run):
    def make(values, name):
        run = open_run(
            write_run({"pair_id": list(map(str, range(len(values)))), "spips_score": values}, name)
        )
        with open_tables(run, [], ()) as tables:
            return tables.distributions("run", "spips_score")[()]

    return make


def test_all_samples_share_one_axis_that_is_logarithmic_if_their_range_asks_for_it(distribution):
    near = distribution(np.linspace(0.1, 0.3, 400).tolist(), "near")
    far = distribution(np.linspace(1.0, 3.0, 400).tolist(), "far")
    alone, both = Scale.of([near]), Scale.of([near, far])
    assert not alone.is_log
    assert alone.edges[0] == 0
    assert both.is_log
    assert both.edges[0] == pytest.approx(0.1, rel=0.02)
    assert both.edges[-1] == pytest.approx(3, rel=0.02)
    for sample, number in ((near, 1), (far, 2)):
        svg = draw_distributions({"run": sample, "baseline": near}, both, f"chart{number}")
        assert svg.startswith("<svg")
        assert "logarithmic" in svg
        assert "var(--baseline)" in svg


def test_outliers_are_said_and_not_drawn(distribution):
    values = [0.1] * 600 + [0.2] * 400 + [7.5, 8.0]
    sample = distribution(values, "outliers")
    scale = Scale.of([sample])
    assert scale.edges[-1] == pytest.approx(0.2, rel=0.01)
    assert scale.name_outliers(sample) == "2 rows above 0.2, largest 8"
    assert Scale.of([distribution([0.1] * 50, "equal")]).name_outliers(sample) == (
        "402 rows above 0.1, largest 8"
    )


def test_zeros_stay_on_a_linear_axis_and_are_said_beside_a_logarithmic_one(distribution):
    zeros = distribution([0.0] * 90 + [0.5] * 10, "zeros")
    assert not Scale.of([zeros]).is_log
    wide = distribution([0.0] * 3 + [0.001] * 500 + np.linspace(0.01, 1, 400).tolist(), "wide")
    scale = Scale.of([wide])
    assert scale.is_log
    assert scale.name_outliers(wide).startswith("3 rows below 0.001, smallest 0")


@pytest.mark.parametrize(("nights", "has_times"), [("23", False), ("22", True)])
def test_runs_are_named_by_their_nights_and_two_of_a_night_by_the_hour(nights, has_times):
    trend = [
        TrendPoint(
            uri="u", run_id="r", night=f"2026-01-0{night}", started_at="2026-01-01T02:30:00+00:00",
            finished_at="", rows=9, failed_fraction=0.1, model_digest="d", model="m",
            is_trained=True, mean=0.1, median=0.1, p95=0.2,
        )
        for night in nights
    ]  # fmt: skip
    svg = draw_trend(trend)["spips_score"]
    assert "2 Jan" in svg
    assert ("02:30" in svg) == has_times
