"""Train this project's own small trunk to see differences as AlexNet does, from photographs alone.

exit codes:
  0    done
  2    the config, the photographs or the teacher's weights are wrong; nothing was trained
  130  interrupted; the same command goes on where it stopped
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.config import load_config
from jobs.score_manifest import DONE, INTERRUPTED, WRONG
from pipeline.errors import ContractError
from pipeline.training_config import DistillTrunkConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="distill_trunk.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    try:
        config, _ = load_config(DistillTrunkConfig, parser, arguments)
        # torch takes seconds to import; --help and a wrong config need not wait for it.
        from pipeline.distillation import distill_trunk

        path = distill_trunk(config, report=_say)
        _say(f"trunk        {path}")
        return DONE
    except ContractError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run the same command again to go on\n")
        return INTERRUPTED


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
