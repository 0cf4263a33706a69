"""Judge SPIPS checkpoints and other metrics against people, and write one table of it all.

exit codes:
  0    done
  1    fault: the tables cannot be written
  2    the config, the data (an image that cannot be read, too) or a checkpoint is wrong; nothing
       was written
  130  interrupted
"""

import sys
from collections.abc import Sequence

from jobs.config import load_config, make_parser
from jobs.exit_codes import DONE, exit_code_of
from pipeline.learning.config import EvaluateConfig
from pipeline.runs.errors import ContractError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job.

    Args:
        arguments: command line; None takes the process's.

    Returns:
        The exit code.
    """
    parser = make_parser("evaluate.py", __doc__)

    def work() -> int:
        config, _ = load_config(EvaluateConfig, parser, arguments)
        return _evaluate(config)

    return exit_code_of(work, interrupted="nothing was written")


def _evaluate(config: EvaluateConfig) -> int:
    # torch takes seconds to import; --help and a wrong config need not wait for it.
    from pipeline.learning.evaluate import evaluate
    from spips_core.errors import SpipsError

    try:
        markdown = evaluate(config, report=_say)
    except SpipsError as error:  # an image that cannot be read
        raise ContractError(str(error)) from error
    sys.stdout.write(f"\n{markdown}\ntables      {config.output.uri}\n")
    return DONE


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
