"""The report of an audit: an HTML page that opens offline, the record's files, and a few lines."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.audits.audit import Audit
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.exports.junit import to_junit
from pipeline.audits.exports.metrics import to_metrics
from pipeline.audits.exports.summary import to_summary
from pipeline.audits.figures.distribution import MIN_ROWS, Estimate
from pipeline.audits.gates.verdicts import headline_of, outcome_of, show_gate_value
from pipeline.audits.links import link_of
from pipeline.audits.numbers import (
    decimals_of,
    long_night_name,
    show_estimate,
    show_fixed,
    show_interval,
    show_number,
    show_share,
)
from pipeline.audits.page.charts import Scale, draw_distributions, draw_trend
from pipeline.audits.page.heat_table import make_heat_table
from pipeline.audits.page.pictures import ShownPair, show_pairs
from pipeline.audits.records import (
    SCORE,
    SIDES,
    AuditRecord,
    GateVerdict,
    Leaderboard,
    label_of,
    show_value,
)
from pipeline.runs.errors import FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.storage import STORE_ERRORS, describe, open_store, write_whole
from pipeline.runs.summary import counted
from pipeline.runs.uris import redact

MAX_CHARTS = 12
MAX_MODELS_WITH_RATES = 6
"""With more models, only the page and audit.json have the win rates."""
SHEET_TITLES = {
    "worst": "Worst pairs", "most changed": "Most changed pairs", "random": "A random sample",
}  # fmt: skip
SHEET_TEXTS = {
    SHEET_TITLES["worst"]: "The pairs with the highest spips_score.",
    SHEET_TITLES["most changed"]: "The pairs whose spips_score rose or fell by most.",
}
NUM_GATES = (20, 200)
"""Gates on the page, worst first: at least so many, and at most so many that are not kept."""


def write_report(audit: Audit, run: FinishedRun, config: AuditScoresConfig) -> dict[str, int]:
    """Write the page, the record and, last, audit.json. Return the files' sizes in bytes, by URI.

    Raises:
        FaultError: the store refuses a file.
    """
    sheets, notes = show_pairs(audit.sheets, run, config.report.image_side_px)
    parquet = pa.BufferOutputStream()
    pyarrow.parquet.write_table(audit.record.to_table(), parquet)
    files = {
        "audit.html": render(audit, sheets, notes, config.report.link_template).encode(),
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


def render(
    audit: Audit, sheets: Mapping[str, Sequence[ShownPair]], notes: Sequence[str],
    link_template: str | None = None,
) -> str:  # fmt: skip
    """Return the page, with the pairs of each contact sheet and notes added to the audit's."""
    environment = Environment(
        loader=PackageLoader("pipeline.audits"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": show_number,
        "gate_value": show_gate_value,
        "estimate": show_estimate,
        "interval": show_interval,
        "distance": _show_distance,
        "share": show_share,
        "link": partial(link_of, template=link_template),
        "long_night": long_night_name,
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
        heat=make_heat_table(record),
        num_gates=int(np.clip(sum(gate.state != "kept" for gate in record.gates), *NUM_GATES)),
        trend_charts=[(title, Markup(svg)) for title, svg in trend.items()],  # noqa: S704 - ours
        distribution_charts=_distribution_charts(audit),
        sheets=[(SHEET_TITLES.get(name, name), pairs) for name, pairs in sheets.items()],
        sheet_texts=SHEET_TEXTS,
    )


def _show_distance(gate: GateVerdict) -> str:
    """Return how far a gate's value is from its bound, with the digits of the value."""
    margin, decimals = abs(gate.margin or 0.0), decimals_of(gate.low, gate.high)
    text = show_number(margin, 2) if decimals is None else show_fixed(margin, decimals)
    return text if float(text) or not margin else show_number(margin, 2)


def _distribution_charts(audit: Audit) -> list[tuple[str, Markup, list[str]]]:
    """Return charts of all rows and of the groups whose score changed most.

    Each has a title, and in words the outliers that it does not show.
    """
    changes = {row.group: row for row in audit.record.changes if row.column == SCORE}
    rises = {group: abs(row.rise.value) for group, row in changes.items()}
    groups = [row.group for row in audit.record.statuses if row.of == "run"]
    groups.sort(key=lambda group: (bool(group), -rises.get(group, 0.0)))
    found = {
        group: {side: audit.distributions.get((side, group)) for side in SIDES}
        for group in groups[:MAX_CHARTS]
        if ("run", group) in audit.distributions
    }
    if not found:
        return []
    scale = Scale.of([one for sides in found.values() for one in sides.values() if one])
    charts = []
    for number, (group, sides) in enumerate(found.items()):
        svg = draw_distributions(sides, scale, f"distribution{number}")
        outliers = [
            f"Not drawn: {text}{' (baseline)' if side == 'baseline' else ''}."
            for side, sample in sides.items()
            if sample and (text := scale.name_outliers(sample))
        ]
        charts.append((label_of(group), Markup(svg), outliers))  # noqa: S704 - ours
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
        failed = f" ({row.failed_fraction:.2%} failed)" if row.failed_fraction else ""
        yield (f"{place:<10} {show_value(row.model)}: {counted(row.rows, 'row')}{failed}, "
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
