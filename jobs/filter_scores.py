"""Keep the rows of a run whose values are within bounds, as a manifest that can be scored again.

Writes manifest/ (kept rows), rejects/ (other rows with scores and reject_reason), summary.json.

for example:
  spips filter scores/ -o kept/ --bounds='[{column: spips_score, at_most: 0.3}]'

exit codes:
  0    done, now or by an earlier run of the same command
  1    fault: fix the cause and run the same command again
  2    the config or the run is wrong, or no row is kept; nothing was written
  130  interrupted
"""

import sys
from collections.abc import Sequence

from jobs.run_job import DONE, make_parser, run_job, say
from pipeline.filters.config import FilterScoresConfig
from pipeline.runs.errors import ContractError

FLAGS = {"dry_run": "print the summary, write nothing"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    parser = make_parser("spips filter", __doc__)
    return run_job(
        _filter,
        FilterScoresConfig,
        parser,
        arguments,
        positional=("SCORES", "scores.uri"),
        flags=FLAGS,
    )


def _filter(config: FilterScoresConfig, *, dry_run: bool) -> int:
    # Imported here because they take a second; --help and a wrong config should not wait.
    from pipeline.audits.figures.tables import reported_as_faults
    from pipeline.filters.filter import open_output, open_source, write_filtered
    from pipeline.filters.rules import describe_summary, make_rules, summarise
    from pipeline.runs.finished import open_newest_run
    from pipeline.runs.lock import lock_run

    with reported_as_faults():
        try:
            run = open_newest_run(config.scores.uri)
        except ContractError as error:
            raise ContractError(*(f"scores.uri: {line}" for line in error.problems)) from error
        for note in run.notes:
            say(f"note: {note}")
        rules = make_rules(config, run)
        folder, state = open_output(config, run)
        finished = f"this filtering is already finished: {folder.uri}"
        if state == "finished" and not dry_run:
            say(finished)
            return DONE
        summary = summarise(rules, run)
        say(describe_summary(summary))
        source = open_source(run, summary)
        if dry_run:
            say("dry run: nothing was written")
            return DONE
        with lock_run(folder) as lock:
            lock.check()
            if open_output(config, run)[1] == "finished":  # by a process that just ended
                say(finished)
                return DONE
            write_filtered(config, folder, run, rules, summary, source)
        written = {"manifest": summary.kept, "rejects": summary.rows - summary.kept}
        names = [name for name, num_rows in written.items() if num_rows]
        say(", ".join(f"{folder.uri}/{name}" for name in (*names, "summary.json")))
        return DONE


if __name__ == "__main__":
    sys.exit(main())
