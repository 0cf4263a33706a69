"""The command `spips`: runs a job by its short name."""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence

from jobs.completion import complete_commands, typed_words
from jobs.run_job import DONE, WRONG
from pipeline.runs.errors import did_you_mean

COMMANDS = {
    "manifest": ("make_manifest", "list the pairs of two or more folders, a table, or a data set"),
    "score": ("score_manifest", "score every pair of a manifest"),
    "pair": ("score_pair", "score one pair, and draw heat maps"),
    "audit": ("audit_scores", "write a report of a run, and check gates"),
    "noise": ("measure_noise", "measure how much the figures of an unchanged model vary"),
    "filter": ("filter_scores", "keep the pairs within bounds"),
    "train": ("train", "fit a model to people's ratings"),
    "evaluate": ("evaluate", "compare models and other metrics with people's ratings"),
}
"""Module in jobs/, and what it does, by command."""

USAGE = """usage: spips COMMAND [ARGUMENTS]

{commands}

spips COMMAND --help explains a command's settings. Its file in jobs/ takes the same arguments, for
`ray job submit`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command (None: the process's command line); return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if typed := typed_words():
        given = typed[1:2]
        os.environ["_ARGCOMPLETE"] = "2"  # the command's own words begin with the second
    name, rest = (given[0], given[1:]) if given else ("", [])
    if name in COMMANDS:
        job = importlib.import_module(f"jobs.{COMMANDS[name][0]}")
        code: int = job.main(rest)
        return code
    if typed:
        complete_commands(COMMANDS)
    if name in ("-V", "--version"):
        sys.stdout.write(f"spips {importlib.metadata.version('spips')}\n")
        return DONE
    listed = "\n".join(f"  {command:<10} {text}" for command, (_, text) in COMMANDS.items())
    usage = USAGE.format(commands=listed)
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage)
        return DONE
    if name:
        hint = did_you_mean(name, COMMANDS)
        sys.stderr.write(f"error: expected a command, got {name!r}{hint}\n\n")
    sys.stderr.write(usage)
    return WRONG


if __name__ == "__main__":
    sys.exit(main())
