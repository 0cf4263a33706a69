"""The command `spips`."""

import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from jobs import cli, start
from jobs.run_job import DONE, WRONG
from tests.jobs.conftest import REPOSITORY


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_explains_itself_with_an_example(command, capfd):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == DONE
    out = capfd.readouterr().out
    assert out.startswith(f"usage: spips {command}")
    assert f"\n  spips {command} " in out
    assert "tuple" not in out
    assert "JSON" not in out
    assert (Path(out.split()[-1]) / "debug").is_dir()


def test_a_command_gets_its_arguments_and_gives_its_exit_code(tmp_path, capfd):
    assert cli.main(["score", str(tmp_path / "absent.parquet"), "-o", str(tmp_path)]) == WRONG
    assert "manifest.uri: " in capfd.readouterr().err


def test_without_a_command_the_commands_are_listed(capfd):
    assert cli.main([]) == WRONG
    captured = capfd.readouterr()
    assert cli.main(["--help"]) == DONE
    assert capfd.readouterr().out == captured.err
    for command in cli.COMMANDS:
        assert f"\n  {command} " in captured.err


def test_a_wrong_command_names_the_one_that_was_meant(capfd):
    assert cli.main(["scroe"]) == WRONG
    assert "expected a command, got 'scroe'; did you mean score?" in capfd.readouterr().err


def test_the_version_is_that_of_the_package(capfd):
    assert cli.main(["--version"]) == DONE
    assert capfd.readouterr().out == f"spips {metadata.version('spips')}\n"


def test_the_package_installs_the_command():
    (script,) = metadata.distribution("spips").entry_points.select(name="spips")
    assert script.load() is start.main


def test_the_list_of_commands_imports_no_job():
    code = "import sys; from jobs import cli; cli.main([]); sys.exit('jobs.train' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert run.returncode == 0


def test_ctrl_c_while_packages_are_imported_ends_without_a_traceback(tmp_path):
    code = "import jobs.start as s, sys; print(flush=True); sys.exit(s.main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, "score", str(tmp_path / "absent.parquet")], cwd=REPOSITORY,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as command:  # fmt: skip
        command.stdout.readline()
        time.sleep(0.1)
        command.send_signal(signal.SIGINT)
        assert command.stderr.read() == b""
    assert command.returncode == -signal.SIGINT
