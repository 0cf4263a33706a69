"""Distil this project's own small trunk from AlexNet, with photographs and no judgements.

for example:
  python jobs/distill_trunk.py --config conf/checkpoints/embedded_trunk.yaml

exit codes:
  0    done
  1    fault, such as weights that cannot be fetched: run the same command again; it resumes
  2    the config, the photographs or the teacher's weights are wrong; nothing was trained
  130  interrupted; run the same command again to resume
"""

import sys
from collections.abc import Sequence

from jobs.run_job import DONE, make_parser, run_job, say
from pipeline.learning.config import DistillTrunkConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    parser = make_parser("jobs/distill_trunk.py", __doc__)
    return run_job(_distill, DistillTrunkConfig, parser, arguments)


def _distill(config: DistillTrunkConfig) -> int:
    # torch takes seconds to import, too long for --help or a wrong config.
    from pipeline.learning.distill import distill_trunk

    path = distill_trunk(config, report=say)
    say(f"trunk        {path}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
