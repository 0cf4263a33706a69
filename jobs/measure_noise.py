"""Measure the noise of a model: how much the figures of reruns differ though nothing changed.

Prints for each figure its mean and standard deviation over the runs, and the smallest rise at which
a gate would break that learned from them (rise_at_most: noise). Writes nothing.

for example:
  spips noise scores/run-2026-11-20 scores/run-2026-11-21 scores/run-2026-11-22
  spips noise scores/ --figures=mean,p95 --group_by=model

exit codes:
  0    done
  1    fault: fix the cause and run the same command again
  2    the settings or a run are wrong, or the runs are not of one model, manifest and settings
  130  interrupted
"""

import sys
from collections.abc import Sequence

from jobs.run_job import DONE, make_parser, run_job, say
from pipeline.audits.config import MeasureNoiseConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    parser = make_parser("spips noise", __doc__)
    return run_job(
        _measure,
        MeasureNoiseConfig,
        parser,
        arguments,
        positional=("RUN", "scores.uris"),
        interrupted="nothing was written",
    )


def _measure(config: MeasureNoiseConfig) -> int:
    # Imported here because scipy and pyarrow take a second; --help should not wait for them.
    from pipeline.audits.figures.tables import reported_as_faults
    from pipeline.audits.gates.noise_floor import describe_floor, measure_floor, open_reruns

    with reported_as_faults():
        runs = open_reruns(config.scores.uris, config.group_by)
        say(f"runs       {len(runs)}, false-alarm rate {config.false_alarm_rate:.2%}")
        for floor in measure_floor(config, runs):
            say(f"noise      {describe_floor(floor)}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
