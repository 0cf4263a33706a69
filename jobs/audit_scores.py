"""Audit a run of scores: figures by group, compared with a baseline, held against gates.

Writes audit.html (one file that opens offline), audit.json and audit.parquet.

exit codes:
  0    done, every gate kept
  1    fault: mend the cause and run the same command again
  2    the config or a run is wrong; nothing was written
  4    a gate is broken; the report is written
  130  interrupted
"""

import sys
from collections.abc import Sequence

from jobs.config import load_config, make_parser
from jobs.exit_codes import DONE, GATE_BROKEN, exit_code_of
from pipeline.audits.config import AuditScoresConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code.
    """
    parser = make_parser("audit_scores.py", __doc__)
    parser.add_argument(
        "--allow-different-models",
        action="store_true",
        help="compare with a baseline that another model scored",
    )

    def work() -> int:
        config, options = load_config(AuditScoresConfig, parser, arguments)
        return _audit(config, allow_different_models=options.allow_different_models)

    return exit_code_of(work, interrupted="nothing was written")


def _audit(config: AuditScoresConfig, *, allow_different_models: bool) -> int:
    # torch and matplotlib take seconds to import; --help and a wrong run need not wait for them.
    from pipeline.audits.audit import audit, describe_audit
    from pipeline.audits.baseline import open_runs
    from pipeline.audits.report import write_report
    from pipeline.audits.tables import open_tables, reported_as_faults

    run, baseline, notes = open_runs(config, allow_different_models=allow_different_models)
    with reported_as_faults(), open_tables(run, baseline, config.group_by) as tables:
        found = audit(config, tables, run, baseline, notes)
    sys.stdout.write(describe_audit(found.content) + "\n")
    for uri, num_bytes in write_report(found, run, config).items():
        sys.stdout.write(f"{uri}  {num_bytes / 1e6:.2f} MB\n")
    return GATE_BROKEN if found.broken else DONE


if __name__ == "__main__":
    sys.exit(main())
