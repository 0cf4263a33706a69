"""The report of an audit: an HTML page that opens offline, the record's files, and a few lines."""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.audits.audit import Audit
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.distribution import MIN_ROWS, Estimate
from pipeline.audits.exports.junit import to_junit
from pipeline.audits.exports.metrics import to_metrics
from pipeline.audits.exports.summary import to_summary
from pipeline.audits.gates import headline_of, outcome_of, show_gate_value, show_number
from pipeline.audits.pictures import ShownPair, draw_distributions, draw_trend, show_pairs
from pipeline.audits.records import SCORE, AuditRecord, Leaderboard, label_of, show_value
from pipeline.audits.tables import Order
from pipeline.runs.errors import FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.storage import STORE_ERRORS, describe, open_store, write_whole
from pipeline.runs.summary import counted
from pipeline.runs.uris import redact

MAX_CHARTS = 12
MAX_MODELS_WITH_RATES = 6
"""With more models, only the page and audit.json have the win rates."""
SHEET_TITLES: dict[Order, str] = {
    "worst": "Worst pairs", "most changed": "Most changed pairs", "random": "A random sample",
}  # fmt: skip
LINKABLE = ("https://", "http://", "s3://", "gs://", "file:///", "/")
"""URIs that begin with one of these become links. All other texts of a manifest stay text."""


def write_report(audit: Audit, run: FinishedRun, config: AuditScoresConfig) -> dict[str, int]:
    """Write the page, the record and, last, audit.json. Return the files' sizes in bytes, by URI.

    Raises:
        FaultError: the store refuses a file.
    """
    sheets, notes = show_pairs(audit.sheets, run, config.report.image_side_px)
    parquet = pa.BufferOutputStream()
    pyarrow.parquet.write_table(audit.record.to_table(), parquet)
    files = {
        "audit.html": render(audit, sheets, notes).encode(),
        "audit.parquet": parquet.getvalue().to_pybytes(),
        "junit.xml": to_junit(audit.record),
        "summary.md": to_summary(audit.record, page_uri(config)).encode(),
        "metrics.prom": to_metrics(audit.record),
        "audit.json": audit.record.to_json(),
    }
    folder = config.output.uri.rstrip("/")
    try:
        fs, path = open_store(folder)
        for name, content in files.items():
            write_whole(fs, f"{path}/{name}", content)
    except STORE_ERRORS as error:
        raise FaultError(f"{redact(folder)} cannot be written: {describe(error)}") from error
    return {redact(f"{folder}/{name}"): len(content) for name, content in files.items()}


def page_uri(config: AuditScoresConfig) -> str:
    """Return the URI of audit.html without secrets."""
    return redact(f"{config.output.uri.rstrip('/')}/audit.html")


def render(audit: Audit, sheets: Mapping[Order, Sequence[ShownPair]], notes: Sequence[str]) -> str:
    """Return the page, with the pairs of each contact sheet and notes added to the audit's."""
    environment = Environment(
        loader=PackageLoader("pipeline.audits"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": show_number,
        "gate_value": show_gate_value,
        "share": _share,
        "link": _link,
        "group": label_of,
        "name": show_value,
        "counted": counted,
    }
    record = audit.record
    figures = [row for row in record.figures if row.of == "run"]
    trend = draw_trend(record.trend) if len(record.trend) > 1 else {}
    return environment.get_template("audit.html").render(
        audit=record,
        outcome=outcome_of(record.gates),
        headline=headline_of(record),
        min_rows=MIN_ROWS,
        notes=[*record.notes, *notes],
        counts=[row for row in record.statuses if row.of == "run"],
        figures=[row for row in figures if not row.group],
        changes={row.column: row for row in record.changes if not row.group},
        streams=[row for row in record.streams if not row.group],
        score_figures={row.group: row for row in figures if row.column == SCORE},
        score_changes={row.group: row for row in record.changes if row.column == SCORE},
        trend_charts=[(title, Markup(svg)) for title, svg in trend.items()],  # noqa: S704 - ours
        distribution_charts=_distribution_charts(audit),
        sheets=[(SHEET_TITLES[name], pairs) for name, pairs in sheets.items()],
    )


def _distribution_charts(audit: Audit) -> list[tuple[str, Markup]]:
    """Return charts, with titles, of all rows and of the groups whose score changed most."""
    changes = {row.group: row for row in audit.record.changes if row.column == SCORE}
    rises = {group: abs(row.rise.value) for group, row in changes.items()}
    groups = [row.group for row in audit.record.statuses if row.of == "run"]
    groups.sort(key=lambda group: (bool(group), -rises.get(group, 0.0)))
    charts = []
    for number, group in enumerate(groups[:MAX_CHARTS]):
        run = audit.distributions.get(("run", group))
        if run is not None:
            baseline = audit.distributions.get(("baseline", group))
            svg = draw_distributions(run, baseline, f"distribution{number}")
            charts.append((label_of(group), Markup(svg)))  # noqa: S704 - ours
    return charts


def describe_audit(record: AuditRecord) -> str:
    """Return a few lines for people: the runs, the score, the gates, the notes."""
    run = record.run
    lines = [f"run        {run.uri}, {counted(run.rows, 'row')}, {run.failed_fraction:.4%} failed"]
    lines += [f"baseline   {one.uri}" for one in record.baseline]
    for row in record.figures:
        if row.of == "run" and not row.group and row.column == SCORE:
            figures = ", ".join(f"{name} {value.value:.4f}" for name, value in row.by_name.items())
            lines.append(f"score      {figures}")
    for change in record.changes:
        if not change.group and change.column == SCORE:
            rise = change.rise
            interval = f"fewer than {MIN_ROWS} pairs, no interval"
            if rise.low is not None:
                interval = f"{record.confidence:.0%} interval {rise.low:+.5f} to {rise.high:+.5f}"
            lines.append(f"change     {record.change}: mean {rise.value:+.5f} ({interval})")
    for gate in record.gates:
        got = gate.reason
        if gate.value is not None and (gate.low is None or not got):  # else the reason has both
            numbers = f"{gate.value:.5g}, margin {gate.margin:.3g}"
            got = f"{numbers}; {got}" if got else numbers
        lines.append(f"{gate.state:<10} {gate.rule} ({label_of(gate.group)}): {got}")
    lines += _describe_leaderboard(record.leaderboard)
    lines += [f"note       {note}" for note in record.notes]
    if record.num_without_baseline:
        lines.append("note       on the first night of a series, give --gates_unjudged=pass")
    return "\n".join(lines)


def _describe_leaderboard(board: Leaderboard | None) -> Iterator[str]:
    """Yield lines for people: each model's figures and, if there are few, its win rates."""
    if board is None:
        return
    yield (f"models     by {board.compare_by}, best first, on "
           f"{counted(board.references, 'reference')} of {board.reference_column}; a difference of "
           f"{board.tie_column} below {board.smallest_visible_difference:g} is a tie")  # fmt: skip
    for place, row in enumerate(board.standings, start=1):
        yield (f"{place:<10} {show_value(row.model)}: {counted(row.rows, 'row')}, "
               f"mean {_with_ends(row.mean, '.4f')}, median {row.median:.4f}, p95 {row.p95:.4f}, "
               f"strength {_with_ends(row.strength, '+.2f')}, "
               f"best on {_with_ends(row.best_share, '.1%')}")  # fmt: skip
        if len(board.standings) <= MAX_MODELS_WITH_RATES:
            rates = [f"{show_value(duel.other)} {_with_ends(duel.win_rate, '.1%')}"
                     for duel in row.against]  # fmt: skip
            yield f"           win rate against {', '.join(rates)}"


def _with_ends(figure: Estimate | None, form: str) -> str:
    """Return a figure with its interval, as far as there is one."""
    if figure is None or figure.low is None:
        return "-" if figure is None else f"{figure.value:{form}}"
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"  # noqa: RUF001


def _link(uri: str) -> str | None:
    """Return the target of a source's link, or None if the source must not become a link."""
    if not uri.startswith(LINKABLE) or uri.startswith("//") or "***" in uri:
        return None
    return f"file://{quote(uri)}" if uri.startswith("/") else uri
