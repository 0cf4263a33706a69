"""The kinds of errors: a broken contract, a bad row, a fault, a graph that failed."""

import difflib
from collections.abc import Iterable, Sequence

from pipeline.runs.schema import Status


class ContractError(Exception):
    """The config, the manifest or the output location is wrong; nothing was scored."""

    def __init__(self, *problems: str) -> None:
        """Keep every problem, one line each, so that a user can fix all at once."""
        super().__init__(*problems)
        self.problems = [" ".join(problem.splitlines()) for problem in problems]

    def __str__(self) -> str:
        """Return the problems, one per line."""
        return "\n".join(self.problems)


class RowError(Exception):
    """One pair cannot be scored; its row gets a status and an error, and the job goes on."""

    def __init__(self, status: Status, message: str) -> None:
        """Keep the status, and one line that says what was expected and what was got."""
        super().__init__(message)
        self.status = status


class FaultError(Exception):
    """The run cannot go on, or its results cannot be trusted; fix the cause and run it again."""


class GraphError(Exception):
    """Ray gave up on a graph; the message is its cause."""


def raise_problems(problems: Sequence[str], faults: Sequence[str]) -> None:
    """Raise what a job's checks found, all at once; a fault alone may pass, a problem does not.

    Raises:
        ContractError: there are problems; it lists the faults too.
        FaultError: there are faults only.
    """
    if problems:
        raise ContractError(*problems, *faults)
    if faults:
        raise FaultError("; ".join(faults))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the known name that is most like a wrong one, or nothing.

    Upper case and spaces around a name do not count.
    """
    plain = {one.strip().lower(): one for one in known}
    close = difflib.get_close_matches(name.strip().lower(), plain, n=1)
    if not close:
        return ""
    meant = plain[close[0]]
    return f"; did you mean {meant if meant == meant.strip() else repr(meant)}?"
