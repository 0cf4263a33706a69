"""Completion in a shell."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli
from tests.jobs.conftest import REPOSITORY

BASH = """
eval "$(register-python-argcomplete spips)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_python_argcomplete spips
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does when Tab is pressed after a line."""


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """A function that returns what bash would offer after a line."""
    code = "import sys; from jobs.cli import main; sys.exit(main())"
    command = tmp_path / "spips"
    command.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{code}'\n")
    command.chmod(0o755)
    folders = (str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def call(line):
        bash = ["bash", "--norc", "-c", BASH, "bash", line]
        return subprocess.check_output(bash, cwd=tmp_path, text=True).split()

    return call


def test_tab_completes_commands(complete):
    assert complete("spips ") == [*cli.COMMANDS]
    assert complete("spips ev") == ["evaluate"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("spips score --retry", "--retry-failed"),
        ("spips score m.parquet -o out --model.prec", "--model.precision"),
        ("spips pair --ma", "--map"),
        ("spips score --model.precision=", "float32 bfloat16"),
        ("spips score --model.lpips t", "true"),
        ("spips filter --statuses=size", "size_mismatch"),
        ("spips score --model.checkpoint=a", "alexnet"),
        ("spips pair --checkpoint s", "squeezenet1_1"),
        ("spips score ", "manifest.parquet spips"),
        ("spips score --model.checkpoint=m", "manifest.parquet"),
    ],
)
def test_tab_completes_options_and_their_values(complete, tmp_path, line, offered):
    (tmp_path / "manifest.parquet").touch()
    assert set(complete(line)) == set(offered.split())
