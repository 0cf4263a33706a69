"""An audit as a run of MLflow: figures as metrics, the report's files as artifacts."""

import math
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.audits.config import AuditScoresConfig
from pipeline.audits.gates.verdicts import outcome_of
from pipeline.audits.records import SCORE, AuditRecord, Key, label_of
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import describe, open_store
from pipeline.runs.uris import redact_as

FILES = ("audit.html", "audit.json", "summary.md")
METRICS_PER_REQUEST = 1000
"""MLflow's own limit."""
_NOT_IN_NAMES = re.compile(r"[^\w .:/-]", re.ASCII)


def check_mlflow(tracking_uri: str | None) -> None:
    """Check that MLflow is installed and knows where to log; nothing is sent.

    Args:
        tracking_uri: of the environment.

    Raises:
        ContractError: it is not, or does not.
    """
    try:
        import mlflow  # noqa: F401 - an extra, and takes seconds
    except ImportError as error:
        raise ContractError(
            "report.mlflow_experiment: expected MLflow, got none; install spips[mlflow]"
        ) from error
    if not tracking_uri:
        raise ContractError(
            "report.mlflow_experiment: expected MLFLOW_TRACKING_URI in the environment, such as "
            "https://mlflow.example.com, got none"
        )


def log_audit(record: AuditRecord, config: AuditScoresConfig, tracking_uri: str) -> str:
    """Log an audit as a new run of the experiment `report.mlflow_experiment`.

    Args:
        record: what the audit found.
        config: of the audit; its report has been written.
        tracking_uri: of the server or database.

    Returns:
        "", or in one line why it was not taken.
    """
    from mlflow.entities import Metric, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    now_ms, name = int(time.time() * 1000), str(config.report.mlflow_experiment)
    metrics = [Metric(key, value, now_ms, 0) for key, value in _metrics_of(record)]
    tags = [RunTag(key, value) for key, value in _tags_of(record).items()]
    try:
        client = MlflowClient(tracking_uri)
        experiment = client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else client.create_experiment(name)
        run_id = client.create_run(place, run_name=record.run.run_id).info.run_id
        client.log_batch(run_id, tags=tags)
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            client.log_batch(run_id, metrics[start : start + METRICS_PER_REQUEST])
        fs, folder = open_store(config.output.uri.rstrip("/"))
        with tempfile.TemporaryDirectory() as copy:
            for file in FILES:
                Path(copy, file).write_bytes(fs.cat_file(f"{folder}/{file}"))
            client.log_artifacts(run_id, copy)
        client.set_terminated(run_id)
    except (MlflowException, OSError, ImportError) as error:  # a driver of its store can be missing
        got = redact_as(describe(error), tracking_uri)
        return f"MLFLOW_TRACKING_URI: expected MLflow to take the audit, got {got}"
    return ""


def _metrics_of(record: AuditRecord) -> Iterator[tuple[str, float]]:
    """Yield name and value of each finite figure: all of all rows, and the score's of each group.

    Names are figure.column, after group/ if there is one, with _ for what MLflow refuses.
    """
    yield "gates.broken", record.num_broken
    names: set[str] = set()
    for counts in record.statuses:
        if counts.of == "run":
            yield _name("failed_fraction", counts.group, names), counts.failed_fraction
    for row in record.figures:
        if row.of == "run" and (not row.group or row.column == SCORE):
            for figure, estimate in row.by_name.items():
                if math.isfinite(estimate.value):
                    yield _name(f"{figure}.{row.column}", row.group, names), estimate.value


def _name(figure: str, group: Key, taken: set[str]) -> str:
    """Return a metric's name that is not taken yet, and note it."""
    label = _NOT_IN_NAMES.sub("_", label_of(group)).replace("/", "_")
    name = f"{label}/{figure}" if group else figure
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _tags_of(record: AuditRecord) -> dict[str, str]:
    run = record.run
    return {
        "spips.outcome": outcome_of(record.gates), "spips.verdict": record.verdict,
        "spips.run": run.uri, "spips.night": run.night, "spips.model": run.model,
        "spips.model_digest": run.model_digest,
    }  # fmt: skip
