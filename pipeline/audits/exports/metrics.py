"""metrics.prom: the figures of an audit as OpenMetrics text, for Prometheus.

Everything is a gauge without a timestamp: node_exporter's textfile collector refuses a file with
OpenMetrics' own types or with timestamps.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest

from pipeline.audits.gates.verdicts import STATES
from pipeline.audits.records import AuditRecord, Key, label_of

Names = Mapping[Key, str]


def to_metrics(record: AuditRecord) -> bytes:
    """Return the content of metrics.prom: the run's figures and changes, and the gates."""
    registry = CollectorRegistry()
    names = _name_groups(row.group for row in record.statuses if row.of == "run")
    _add_run(record, names, registry)
    _add_figures(record, names, registry)
    _add_gates(record, names, registry)
    content: bytes = generate_latest(registry)
    return content


def _add_run(record: AuditRecord, names: Names, registry: CollectorRegistry) -> None:
    """Add what the run is, when it was, and its rows by status."""
    run, labels = record.run, ("run_id", "night", "model", "model_digest")
    info = Gauge("spips_run_info", "The audited run; always 1", labels, registry=registry)
    info.labels(*(getattr(run, name) for name in labels)).set(1)
    for name, moment in (("started", run.started_at), ("finished", run.finished_at)):
        when = Gauge(f"spips_run_{name}_timestamp_seconds", f"When the run {name}, Unix time",
                     registry=registry)  # fmt: skip
        when.set(datetime.fromisoformat(moment).timestamp())
    rows = Gauge("spips_rows", "Rows by status", ("group", "status"), registry=registry)
    failed = Gauge("spips_failed_fraction", "Share of the rows that are not ok", ("group",),
                   registry=registry)  # fmt: skip
    for row in record.statuses:
        if row.of == "run":
            failed.labels(names[row.group]).set(row.failed_fraction)
            for status, count in row.counts.items():
                rows.labels(names[row.group], status.value).set(count)


def _add_figures(record: AuditRecord, names: Names, registry: CollectorRegistry) -> None:
    """Add the figures of each column and group, and how its mean rose."""
    place = ("column", "group")
    figures = Gauge("spips_figure", "Figure of a column", (*place, "figure"), registry=registry)
    for row in record.figures:
        if row.of == "run":
            shares = {f"share_above_{one.threshold:g}": one for one in row.share_above}
            for name, figure in (row.by_name | shares).items():
                figures.labels(row.column, names[row.group], name).set(figure.value)
    rises = Gauge("spips_rise", "Rise of a column's mean from the baseline", place,
                  registry=registry)  # fmt: skip
    for change in record.changes:
        rises.labels(change.column, names[change.group]).set(change.rise.value)


def _add_gates(record: AuditRecord, names: Names, registry: CollectorRegistry) -> None:
    """Add the state of each gate, and how far its value is from the bound."""
    place = ("gate", "group")
    states = Gauge("spips_gate", "1 for the state that a gate has, 0 for the others",
                   (*place, "state"), registry=registry)  # fmt: skip
    margins = Gauge("spips_gate_margin", "Distance from the value to the bound, negative beyond it",
                    place, registry=registry)  # fmt: skip
    bounds = Gauge("spips_gate_bound", "Bound of the gate", place, registry=registry)
    nights = Gauge("spips_gate_noise_nights", "Nights from which the bound was learned", place,
                   registry=registry)  # fmt: skip
    for gate in record.gates:
        bounds.labels(gate.rule, names[gate.group]).set(gate.bound)
        if gate.noise is not None:
            nights.labels(gate.rule, names[gate.group]).set(len(gate.noise.nights))
        for state in STATES:
            states.labels(gate.rule, names[gate.group], state).set(state == gate.state)
        if gate.margin is not None:
            margins.labels(gate.rule, names[gate.group]).set(gate.margin)


def _name_groups(groups: Iterable[Key]) -> Names:
    """Return a name for each group. Prometheus refuses a file that has the same labels twice."""
    names: dict[Key, str] = {}
    for group in groups:
        name = label_of(group)
        while name in names.values():
            name += "'"
        names[group] = name
    return names
