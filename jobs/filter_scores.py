"""Keep the rows of a run whose values lie within bounds, as a manifest that can be scored again.

Writes manifest/ (kept rows), rejects/ (the others with scores and reject_reason), summary.json.

exit codes:
  0    done, now or in an earlier run of the same command
  1    fault: mend the cause and run the same command again
  2    the config or the run is wrong, or no row is kept; nothing was written
  130  interrupted
"""

import sys
from collections.abc import Sequence

from jobs.config import load_config, make_parser
from jobs.exit_codes import DONE, exit_code_of
from pipeline.audits.config import FilterScoresConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code.
    """
    parser = make_parser("filter_scores.py", __doc__)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the summary only, write nothing"
    )

    def work() -> int:
        config, options = load_config(FilterScoresConfig, parser, arguments)
        return _filter(config, dry_run=options.dry_run)

    return exit_code_of(work)


def _filter(config: FilterScoresConfig, *, dry_run: bool) -> int:
    # ray takes seconds to import; --help and a wrong config need not wait for it.
    from ray.exceptions import RayError

    from jobs.score_manifest import start_ray
    from pipeline.audits.filter import open_output, write_filtered
    from pipeline.audits.filter_rules import describe_summary, make_rules, summarise
    from pipeline.audits.tables import reported_as_faults
    from pipeline.runs.finished import open_newest_run

    with reported_as_faults(RayError):
        run = open_newest_run(config.scores.uri)
        rules = make_rules(config, run)
        folder, state = open_output(config, run)
        if state == "finished" and not dry_run:
            sys.stdout.write(f"this filtering is finished: {folder.uri}\n")
            return DONE
        summary = summarise(rules, run)
        sys.stdout.write(describe_summary(summary) + "\n")
        if dry_run:
            sys.stdout.write("dry run: nothing was written\n")
            return DONE
        start_ray()
        write_filtered(config, folder, run, rules, summary)
        sys.stdout.write(
            f"{folder.uri}/manifest, {folder.uri}/rejects, {folder.uri}/summary.json\n"
        )
        return DONE


if __name__ == "__main__":
    sys.exit(main())
