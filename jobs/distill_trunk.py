"""Train this project's own small trunk to see differences as AlexNet does, from photographs alone.

exit codes:
  0    done
  2    the config, the photographs or the teacher's weights are wrong; nothing was trained
  130  interrupted; the same command goes on where it stopped
"""

import sys
from collections.abc import Sequence

from jobs.config import load_config, make_parser
from jobs.exit_codes import DONE, exit_code_of
from pipeline.learning.config import DistillTrunkConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code.
    """
    parser = make_parser("distill_trunk.py", __doc__)

    def work() -> int:
        config, _ = load_config(DistillTrunkConfig, parser, arguments)
        # torch takes seconds to import; --help and a wrong config need not wait for it.
        from pipeline.learning.distill import distill_trunk

        path = distill_trunk(config, report=_say)
        _say(f"trunk        {path}")
        return DONE

    return exit_code_of(work)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
