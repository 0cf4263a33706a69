"""metrics.prom of a run: its counts and figures as OpenMetrics text; and the push of such a file.

Everything is a gauge without a timestamp: node_exporter's textfile collector refuses a file with
OpenMetrics' own types or with timestamps, and so does a push gateway.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry, Gauge, Metric, push_to_gateway
from prometheus_client.exposition import basic_auth_handler
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pipeline.runs.errors import ContractError
from pipeline.runs.records import RunRecord
from pipeline.runs.uris import http_host

PREFIX = "spips_score_"
LONGEST_ANSWER_S = 10


def to_metrics(record: RunRecord, figures: Mapping[str, float]) -> bytes:
    """Return the content of a run's metrics.prom.

    Args:
        record: the content of run.json.
        figures: of the score, by name.
    """
    registry = CollectorRegistry()
    attempt, model = record.attempts[-1], record.config["model"]["checkpoint"]
    labels = {
        "run_id": record.run_id, "model": model, "model_digest": record.model.digest,
        "night": record.night or record.attempts[0].started_at[:10],
    }  # fmt: skip
    info = Gauge(f"{PREFIX}run_info", "The scored run; always 1", labels, registry=registry)
    info.labels(**labels).set(1)
    rows = Gauge(f"{PREFIX}rows", "Rows by status", ("status",), registry=registry)
    for status, count in record.counts_by_status.items():
        rows.labels(status).set(count)
    shown = Gauge(f"{PREFIX}figure", "Figure of spips_score", ("figure",), registry=registry)
    for name, value in figures.items():
        shown.labels(name).set(value)
    for name, text, value in (
        ("failed_fraction", "Share of the rows that are not ok", record.failed_fraction),
        ("rows_per_second", "Speed of the last attempt", attempt.rows_per_s),
        ("elapsed_seconds", "Duration of the last attempt", attempt.elapsed_s),
        ("started_timestamp_seconds", "When it started, Unix time", _unix_s(attempt.started_at)),
        ("finished_timestamp_seconds", "When it ended, Unix time", _unix_s(record.finished_at)),
    ):
        Gauge(f"{PREFIX}{name}", text, registry=registry).set(value)
    content: bytes = generate_latest(registry)
    return content


def _unix_s(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@dataclass(frozen=True)
class _Content(Collector):
    """The metrics of a file, as the client takes them."""

    text: str

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        metrics: Iterable[Metric] = text_string_to_metric_families(self.text)
        return metrics


def check_gateway(url: str) -> None:
    """Check the form of a push gateway's URL; nothing is sent.

    Raises:
        ContractError: it is no http(s) URL.
    """
    if not http_host(url):
        raise ContractError(
            "SPIPS_PUSH_GATEWAY: expected a URL such as http://gateway.example.com:9091, got a "
            "text without http:// or https://, or without a host"
        )


def push_metrics(url: str, job: str, content: bytes) -> str:
    """Replace a job's metrics in a push gateway by those of a file.

    Args:
        url: of the gateway; it may hold a user and a password.
        job: value of the label `job`.
        content: of metrics.prom.

    Returns:
        "", or in one line why they were not taken.
    """
    parts = urlsplit(url)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    user, password = (unquote(part) if part else part for part in (parts.username, parts.password))
    handler = partial(basic_auth_handler, username=user, password=password)
    registry = CollectorRegistry()
    registry.register(_Content(content.decode()))
    try:
        push_to_gateway(place, job, registry, timeout=LONGEST_ANSWER_S, handler=handler)
    except HTTPError as error:
        got = f"HTTP status {error.code}"
        error.close()
    except (OSError, HTTPException, ValueError) as error:
        got = type(error).__name__  # the error's text can hold the URL
    else:
        return ""
    return f"SPIPS_PUSH_GATEWAY: expected {http_host(url)} to take the metrics, got {got}"
