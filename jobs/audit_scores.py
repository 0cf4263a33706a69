r"""Audit a run of scores: compute figures by group, compare them with a baseline, judge the gates.

Writes audit.html (one file that opens offline), audit.json and audit.parquet; and for other
programs junit.xml, summary.md and metrics.prom. The last line printed is the verdict.

environment variables:
  GITHUB_STEP_SUMMARY  file that summary.md is appended to; GitHub sets it
  MLFLOW_TRACKING_URI  server or database of report.mlflow_experiment, which gets figures and report
  SPIPS_PUSH_GATEWAY   URL of a Prometheus push gateway, which gets metrics.prom
  SPIPS_WEBHOOK_URL    URL that the verdict is posted to, as Slack reads it, if the exit code is 4

for example:
  spips audit scores/ -o audit/
  spips audit scores/ -o audit/ --group_by=model \
      --gates='[{column: spips_score, figure: p95, at_most: 0.35}]'

exit codes:
  0    done, no gate is broken
  1    fault: fix the cause and run the same command again
  2    the config or a run is wrong; nothing was written
  4    a gate is broken, or has nothing to compare with (see gates_unjudged); the report is written
  130  interrupted
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jobs.run_job import DONE, GATE_BROKEN, make_parser, run_job, say
from pipeline.audits.config import AuditScoresConfig

if TYPE_CHECKING:
    from pipeline.audits.records import AuditRecord

FLAGS = {"allow_different_models": "accept a baseline that a different model scored"}

SUMMARY, GATEWAY, WEBHOOK = "GITHUB_STEP_SUMMARY", "SPIPS_PUSH_GATEWAY", "SPIPS_WEBHOOK_URL"
TRACKING_URI = "MLFLOW_TRACKING_URI"
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Else it tries for minutes to reach a server that is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Variables that MLflow reads when it is imported; a user's own values count."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    parser = make_parser("spips audit", __doc__)
    return run_job(
        _audit,
        AuditScoresConfig,
        parser,
        arguments,
        positional=("SCORES", "scores.uri"),
        flags=FLAGS,
        interrupted="nothing was written",
    )


def _audit(config: AuditScoresConfig, *, allow_different_models: bool) -> int:
    # Imported here because torch and matplotlib take seconds; --help should not wait for them.
    from pipeline.audits.audit import audit
    from pipeline.audits.baseline import open_runs
    from pipeline.audits.figures.tables import open_tables, reported_as_faults
    from pipeline.audits.gates.verdicts import headline_of
    from pipeline.audits.report import describe_audit, write_report

    _check_listeners(config)
    run, baseline, notes, nights = open_runs(config, allow_different_models=allow_different_models)
    with (
        reported_as_faults(),
        open_tables(run, baseline, config.group_by, config.compare.reference_column) as tables,
    ):
        found = audit(config, tables, run, baseline, notes, nights)
    say(describe_audit(found.record))
    for uri, num_bytes in write_report(found, run, config).items():
        say(f"{uri}  {num_bytes / 1e6:.2f} MB")
    num_failed = found.record.num_broken
    if config.gates_unjudged == "fail":
        num_failed += found.record.num_without_baseline
    for problem in filter(None, _tell(found.record, config, has_failed=num_failed > 0)):
        # The report is written, and the exit code stands.
        sys.stderr.write(f"warning: {problem}\n")
    say(f"verdict    {headline_of(found.record)}")
    return GATE_BROKEN if num_failed else DONE


def _check_listeners(config: AuditScoresConfig) -> None:
    """Check, before work starts, what the environment and the settings say whom to tell."""
    from pipeline.audits.exports.tracking import check_mlflow
    from pipeline.audits.exports.webhook import check_webhook
    from pipeline.runs.metrics import check_gateway

    if gateway := os.environ.get(GATEWAY):
        check_gateway(gateway)
    if webhook := os.environ.get(WEBHOOK):
        check_webhook(webhook)
    if config.report.mlflow_experiment:
        for name, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        check_mlflow(os.environ.get(TRACKING_URI))


def _tell(record: "AuditRecord", config: AuditScoresConfig, *, has_failed: bool) -> Iterator[str]:
    """Tell other programs what an audit found; yield what went wrong with each, or ""."""
    from pipeline.audits.exports.metrics import to_metrics
    from pipeline.audits.exports.summary import append_summary
    from pipeline.audits.exports.tracking import log_audit
    from pipeline.audits.exports.webhook import post_verdict
    from pipeline.audits.gates.verdicts import headline_of
    from pipeline.audits.report import page_uri
    from pipeline.runs.metrics import push_metrics

    if summary := os.environ.get(SUMMARY):
        yield append_summary(summary, record, page_uri(config))
    if gateway := os.environ.get(GATEWAY):
        yield push_metrics(gateway, "spips_audit", to_metrics(record))
    if config.report.mlflow_experiment:
        yield log_audit(record, config, os.environ[TRACKING_URI])
    if has_failed and (webhook := os.environ.get(WEBHOOK)):
        yield post_verdict(webhook, headline_of(record), page_uri(config))


if __name__ == "__main__":
    sys.exit(main())
