"""Judge SPIPS checkpoints and other metrics against people, and write one table of it all.

exit codes:
  0    done
  2    the config, the data or a checkpoint is wrong; nothing was written
  130  interrupted
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.config import load_config
from jobs.score_manifest import DONE, INTERRUPTED, WRONG
from pipeline.errors import ContractError
from pipeline.training_config import EvaluateConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    try:
        config, _ = load_config(EvaluateConfig, parser, arguments)
        return _evaluate(config)
    except ContractError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return WRONG
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was written\n")
        return INTERRUPTED


def _evaluate(config: EvaluateConfig) -> int:
    # torch takes seconds to import; --help and a wrong config need not wait for it.
    from pipeline.evaluation import evaluate
    from spips_core.errors import SpipsError

    try:
        markdown = evaluate(config, report=_say)
    except SpipsError as error:  # an image that cannot be read
        raise ContractError([str(error)]) from error
    sys.stdout.write(f"\n{markdown}\ntables      {config.output.uri}\n")
    return DONE


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
