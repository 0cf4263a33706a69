"""Completion in a shell, by argcomplete.

A line in the shell's start-up file (docs/scoring.md) makes Tab start the command with _ARGCOMPLETE
and COMP_LINE, the text so far, in its environment.
"""

import argparse
import os
from collections.abc import Iterable
from importlib import resources

import argcomplete
from argcomplete.completers import FilesCompleter


def typed_words() -> list[str]:
    """Return the words before the one that a shell wants completed, the program first; or none."""
    if "_ARGCOMPLETE" not in os.environ:
        return []
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    return f"{line}|".split()[:-1]  # the last one may be empty


def complete_commands(commands: Iterable[str]) -> None:
    """Print the commands that begin as the typed one, and exit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=[*commands])
    argcomplete.autocomplete(parser, always_complete_options=False)


def complete_options(parser: argparse.ArgumentParser) -> None:
    """If a shell wants options or values completed, print them and exit.

    Args:
        parser: of a command, with all its options. A checkpoint is the name of a packaged one or a
            file, as are values whose option has no `completer`.
    """
    if not typed_words():
        return
    for action in parser._actions:
        if any(option.endswith("checkpoint") for option in action.option_strings):
            action.completer = _complete_checkpoint  # type: ignore[attr-defined]  # argcomplete's
    argcomplete.autocomplete(parser, always_complete_options=False)


def _complete_checkpoint(prefix: str, **_: object) -> list[str]:
    folder = resources.files("spips_core") / "checkpoints"
    files = (entry.name for entry in folder.iterdir())
    names = [name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors")]
    matching = [name for name in names if name.startswith(prefix)]
    return matching or list(FilesCompleter()(prefix))
