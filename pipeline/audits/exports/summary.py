"""summary.md: an audit on one screen, as Markdown for the page of a CI job."""

import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.audits.gates.verdicts import headline_of, show_gate_value
from pipeline.audits.numbers import show_number
from pipeline.audits.records import SCORE, AuditRecord, label_of
from pipeline.runs.storage import describe
from pipeline.runs.summary import counted

MAX_ROWS = 50
"""Rows of a table. GitHub refuses a summary above 1 MiB."""
_SPECIAL = re.compile(r"([\\`*\[\]<>|&#~$]|(?<!\w)_|_(?!\w))")
"""What Markdown, or GitHub's formulas, would take for markup."""


def to_summary(record: AuditRecord, page_uri: str) -> str:
    """Return the content of summary.md: verdict, gates, scores by group, and change.

    Args:
        record: what the audit found.
        page_uri: of the report's page, without secrets.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.audits"), undefined=StrictUndefined, finalize=escape,
        autoescape=False, trim_blocks=True, lstrip_blocks=True,  # noqa: S701 - see `escape`
    )  # fmt: skip
    environment.filters |= {
        "number": show_number, "gate_value": show_gate_value, "group": label_of, "counted": counted,
    }  # fmt: skip
    statuses = [row for row in record.statuses if row.of == "run"]
    scores = {row.group: row for row in record.figures if row.of == "run" and row.column == SCORE}
    changes = {row.group: row for row in record.changes if row.column == SCORE}
    return environment.get_template("summary.md").render(
        audit=record, headline=headline_of(record), page_uri=page_uri, rows=statuses,
        scores=scores, changes=changes, max_rows=MAX_ROWS,
    )  # fmt: skip


def append_summary(path: str, record: AuditRecord, page_uri: str) -> str:
    """Append the summary to the file that GitHub shows on the page of a job.

    Returns:
        "", or in one line why it could not be appended.
    """
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{to_summary(record, page_uri)}\n")
    except OSError as error:
        return f"GITHUB_STEP_SUMMARY: expected a file to append to, got {describe(error)}"
    return ""


def escape(value: object) -> str:
    """Return a value as Markdown that shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).splitlines()))
