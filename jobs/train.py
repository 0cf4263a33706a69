"""Train a SPIPS model on human judgements, and write its checkpoint.

for example:
  spips train -o models/ --output.name=ours --data.rated='[{name: ours, path: pairs.csv}]'

exit codes:
  0    done
  1    fault: fix the cause and run the same command again; it resumes after the last epoch
  2    the config, the data or the trunk's weights are wrong; no checkpoint was written
  130  interrupted; run the same command again to resume after the last epoch
"""

import os
import sys
from collections.abc import Sequence

from jobs.run_job import DONE, VERBOSE, make_parser, run_job, say, start_ray
from pipeline.learning.config import TrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    return run_job(
        _train, TrainConfig, make_parser("spips train", __doc__), arguments, flags=VERBOSE
    )


def _train(config: TrainConfig, *, verbose: bool) -> int:
    # torch and ray take seconds to import, too long for --help or a wrong config.
    from pipeline.learning.train import check_training, run_training

    # An epoch in mode lin takes a second. Ray Train by default polls for its report every two.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    check_training(config)
    start_ray(verbose=verbose, dashboard=True)
    for uri in run_training(config):
        say(f"checkpoint  {uri}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
