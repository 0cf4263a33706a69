import math
from datetime import datetime

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pipeline.audits.exports.metrics import to_metrics
from tests.pipeline.audits.conftest import find, run_audit, scores

HOSTILE = 'a "b" \\ {c="d"} # EOF\n'
GATES = [
    {"column": "spips_score", "figure": "p95", "at_most": 0.1, "each_group": True},
    {"column": "spips_score", "figure": "mean", "rise_at_most": 0.1},
]


@pytest.fixture(scope="module")
def record(write_shared_run):
    columns = scores(num_failed=3)
    columns["maker"] = [HOSTILE if i % 2 else None for i in range(400)]
    before = write_shared_run(columns, "before")
    return run_audit(write_shared_run(columns), before, group_by=["maker"], gates=GATES).record


def read(content):
    """The samples as {name: [(labels, value)]}, by the parser of OpenMetrics."""
    samples = {}
    for family in openmetrics.text_string_to_metric_families(content.decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def value_of(samples, name, **labels):
    (value,) = (value for found, value in samples[name] if labels.items() <= found.items())
    return value


def test_every_figure_is_read_back_by_column_and_group(record):
    samples = read(to_metrics(record))
    figures = [row for row in record.figures if row.of == "run"]
    names = {(): "all rows", (None,): "(null)"}
    for row in figures:
        labels = {"column": row.column, "group": names.get(row.group, HOSTILE[:-1] + "\\n")}
        for name, figure in row.by_name.items():
            assert value_of(samples, "spips_figure", figure=name, **labels) == figure.value
    assert any(math.isinf(value) for _, value in samples["spips_figure"]) is False
    shares = find(figures, group=(), column="spips_score").share_above
    got = value_of(samples, "spips_figure", figure="share_above_0.3", group="all rows")
    assert got == shares[-1].value
    change = find(record.changes, group=(), column="spips_score").rise.value
    assert value_of(samples, "spips_rise", column="spips_score", group="all rows") == change


def test_rows_gates_and_times_are_read_back(record):
    samples = read(to_metrics(record))
    assert value_of(samples, "spips_rows", group="all rows", status="missing") == 3
    assert value_of(samples, "spips_rows", group="all rows", status="ok") == 397
    assert value_of(samples, "spips_failed_fraction", group="all rows") == 3 / 400
    gate = {"gate": "p95 of spips_score at most 0.1", "group": "(null)"}
    states = {s: value_of(samples, "spips_gate", state=s, **gate)
              for s in ("broken", "not judged", "kept")}  # fmt: skip
    assert states == {"broken": 1, "not judged": 0, "kept": 0}
    assert (
        value_of(samples, "spips_gate_margin", **gate) == find(record.gates, group=(None,)).margin
    )
    finished = datetime.fromisoformat("2026-01-02T02:00:00+00:00").timestamp()
    assert value_of(samples, "spips_run_finished_timestamp_seconds") == finished
    assert value_of(samples, "spips_run_info", run_id="night", model="embedded") == 1


def test_the_textfile_collector_can_read_the_file(record):
    text = to_metrics(record).decode()
    families = list(text_string_to_metric_families(text))  # the older format, which it reads
    assert {family.type for family in families} == {"gauge"}
    assert all(one.timestamp is None for family in families for one in family.samples)
    assert sum(len(family.samples) for family in families) == sum(
        map(len, read(text.encode()).values())
    )
    assert text.endswith("# EOF\n")


def test_infinite_values_and_groups_that_look_alike_are_read_back(write_run):
    columns = {"pair_id": [f"p{i}" for i in range(40)], "spips_score": [0.0] * 40,
               "psnr_db": [math.inf] * 40, "maker": ["(null)", None] * 20}  # fmt: skip
    samples = read(to_metrics(run_audit(write_run(columns), group_by=["maker"]).record))
    assert value_of(samples, "spips_figure", column="psnr_db", figure="p95", group="(null)") == (
        math.inf
    )
    groups = [labels["group"] for labels, _ in samples["spips_failed_fraction"]]
    assert groups == ["all rows", "(null)", "(null)'"]
