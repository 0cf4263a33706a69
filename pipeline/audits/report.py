"""The audit as one HTML file that opens offline."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.audits.audit import SCORE, Audit, label_of, to_table
from pipeline.audits.charts import draw_distributions, draw_trend
from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.contact_sheets import ShownPair, show_pairs
from pipeline.audits.tables import QUANTILES
from pipeline.runs.errors import FaultError
from pipeline.runs.finished import FinishedRun
from pipeline.runs.records import Json
from pipeline.runs.storage import STORE_ERRORS, describe, open_store, write_whole
from pipeline.runs.uris import redact

MAX_CHARTS = 12
SHEET_TITLES = {
    "worst": "Worst pairs",
    "most changed": "Most changed pairs",
    "random": "A random sample",
}
LINKABLE = ("https://", "http://", "s3://", "gs://", "file:///", "/")
"""Beginnings of URIs that become links; what else a manifest holds stays text."""


def write_report(audit: Audit, run: FinishedRun, config: AuditScoresConfig) -> dict[str, int]:
    """Write audit.html, audit.json and audit.parquet; audit.json, written last, says all is there.

    Args:
        audit: what was found.
        run: the run.
        config: the job's.

    Returns:
        The files' sizes in bytes, by URI.

    Raises:
        FaultError: the store does not take them.
    """
    sheets, notes = show_pairs(audit.sheets, run, config.report.image_side_px)
    parquet = pa.BufferOutputStream()
    pyarrow.parquet.write_table(to_table(audit.content), parquet)
    files = {
        "audit.html": render(audit, sheets, notes).encode(),
        "audit.parquet": parquet.getvalue().to_pybytes(),
        "audit.json": (json.dumps(audit.content, indent=2, allow_nan=False) + "\n").encode(),
    }
    folder = config.output.uri.rstrip("/")
    try:
        fs, path = open_store(folder)
        for name, content in files.items():
            write_whole(fs, f"{path}/{name}", content)
    except STORE_ERRORS as error:
        raise FaultError(f"{redact(folder)} cannot be written: {describe(error)}") from error
    return {redact(f"{folder}/{name}"): len(content) for name, content in files.items()}


def render(audit: Audit, sheets: Mapping[str, Sequence[ShownPair]], notes: Sequence[str]) -> str:
    """Return the page.

    Args:
        audit: what was found.
        sheets: pairs to show, by sheet's name.
        notes: for people, beside those of the audit.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.audits"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": _number, "share": _share, "link": _link, "group": label_of, "list_key": tuple,
    }  # fmt: skip
    content = audit.content
    trend = draw_trend(content["trend"]) if len(content["trend"]) > 1 else {}
    return environment.get_template("audit.html").render(
        **content,
        notes_of_report=list(notes),
        quantiles=list(QUANTILES),
        trend_charts=[(title, Markup(svg)) for title, svg in trend.items()],  # noqa: S704 - ours
        distribution_charts=_distribution_charts(audit),
        num_groups=sum(1 for row in content["statuses"] if row["of"] == "run" and row["group"]),
        rows_of_run=[row for row in content["statuses"] if row["of"] == "run"],
        score_figures={
            (row["of"], tuple(row["group"])): row
            for row in content["figures"]
            if row["column"] == SCORE
        },
        score_changes={
            tuple(row["group"]): row for row in content["changes"] if row["column"] == SCORE
        },
        overall=[row for row in content["figures"] if row["of"] == "run" and not row["group"]],
        overall_changes={row["column"]: row for row in content["changes"] if not row["group"]},
        overall_streams=[row for row in content["streams"] if not row["group"]],
        thresholds=_thresholds(content),
        sheets=[(SHEET_TITLES[name], pairs) for name, pairs in sheets.items()],
    )


def _distribution_charts(audit: Audit) -> list[tuple[str, Markup]]:
    """Return the charts of all rows and of the groups that changed most, with their names."""
    rises = {
        tuple(row["group"]): abs(row["rise"]["value"])
        for row in audit.content["changes"]
        if row["column"] == SCORE
    }
    order = sorted(audit.group_numbers, key=lambda group: (bool(group), -rises.get(group, 0.0)))
    charts = []
    for group in order[:MAX_CHARTS]:
        number = audit.group_numbers[group]
        run, baseline = (audit.distributions[table].get(number) for table in ("run", "baseline"))
        if run is not None:
            svg = draw_distributions(run, baseline, f"distribution{number}")
            charts.append((label_of(group), Markup(svg)))  # noqa: S704 - ours
    return charts


def _thresholds(content: Json) -> list[float]:
    """Return the thresholds of the score's column."""
    for row in content["figures"]:
        if row["column"] == SCORE:
            return [share["threshold"] for share in row["share_above"]]
    return []


def _number(value: Any, digits: int = 4) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - an en dash stands for nothing
    if value and abs(value) < 10**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"  # noqa: RUF001


def _link(uri: str) -> str | None:
    """Return where a source's link leads, or None where it must not be one."""
    if not uri.startswith(LINKABLE) or uri.startswith("//") or "***" in uri:
        return None
    return f"file://{quote(uri)}" if uri.startswith("/") else uri
