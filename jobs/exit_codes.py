"""How every job ends: what went wrong as one line each, and an exit code."""

import sys
from collections.abc import Callable

from pyarrow import ArrowException

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.storage import STORE_ERRORS, describe

DONE, FAULT, WRONG, TOO_MANY_FAILED, GATE_BROKEN, INTERRUPTED = 0, 1, 2, 3, 4, 130


def exit_code_of(
    work: Callable[[], int], *, interrupted: str = "run the same command again to go on"
) -> int:
    """Do a job's work and tell what stopped it, without a stack trace.

    Args:
        work: returns an exit code, or raises one of the pipeline's errors.
        interrupted: what to tell who pressed Ctrl-C.

    Returns:
        The work's exit code, or the error's.
    """
    try:
        return work()
    except ContractError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return WRONG
    except FaultError as error:
        sys.stderr.write(f"fault: {error}\n")
        return FAULT
    except (*STORE_ERRORS, ArrowException) as error:  # a file lost or damaged, a store away
        sys.stderr.write(f"fault: {describe(error)}\n")
        return FAULT
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: {interrupted}\n")
        return INTERRUPTED
