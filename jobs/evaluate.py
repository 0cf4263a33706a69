r"""Compare SPIPS checkpoints and other metrics with human judgements, and write the tables.

for example:
  spips evaluate -o tables/ --models='[{name: embedded, checkpoint: embedded}]' \
      --data.rated='[{name: ours, path: pairs.csv}]'

exit codes:
  0    done
  1    fault: the weights of a trunk cannot be fetched, or the tables cannot be written
  2    the config, an image or other data, or a checkpoint is wrong; nothing was written
  130  interrupted; nothing was written
"""

import sys
from collections.abc import Sequence

from jobs.run_job import DONE, make_parser, run_job, say
from pipeline.learning.config import EvaluateConfig
from pipeline.runs.errors import ContractError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job with a command line (None: the process's); return the exit code."""
    parser = make_parser("spips evaluate", __doc__)
    return run_job(_evaluate, EvaluateConfig, parser, arguments, interrupted="nothing was written")


def _evaluate(config: EvaluateConfig) -> int:
    # torch takes seconds to import, too long for --help or a wrong config.
    from pipeline.learning.evaluate import evaluate
    from spips_core.errors import SpipsError

    try:
        markdown = evaluate(config, report=say)
    except SpipsError as error:  # an image that cannot be read
        raise ContractError(str(error)) from error
    say(f"\n{markdown}\ntables      {config.output.uri}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
