import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.runs import lock as locking
from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.lock import lock_run
from pipeline.runs.records import LockRecord
from pipeline.runs.run import open_run_folder

MINE = {"manifest": "m", "model": "d", "scoring": "s"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(locking, "BEAT_S", 0.1)
    monkeypatch.setattr(locking, "WATCH_S", 2.0)
    monkeypatch.setattr(locking, "SETTLE_S", 0.1)


def write_lock(run, **changes) -> None:
    """Write the file as another process does."""
    held = {"holder": "other", "process": os.getpid(), "place": "elsewhere", "host": "far"}
    run.write_lock(LockRecord(**(held | {"beats": 1} | changes)))


def test_one_process_holds_a_folder_and_frees_it_at_the_end(folder):
    run = open_run_folder(folder, "r", MINE)
    with lock_run(run) as lock:
        lock.check()
        assert run.state() == "new"
        with pytest.raises(ContractError, match=rf"got process {os.getpid()} on "), lock_run(run):
            pass
        lock.check()
    assert run.fs.ls(run.path) == [] if run.fs.exists(run.path) else True
    with lock_run(run) as lock:
        lock.check()


def test_the_folder_of_a_dead_process_on_this_machine_is_taken_at_once(tmp_path):
    run = open_run_folder(str(tmp_path), "r", MINE)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    write_lock(run, process=int(dead.stdout), place=locking._place())
    start_s = time.monotonic()
    with lock_run(run) as lock:
        assert time.monotonic() - start_s < 1
        lock.check()


ODD = b'{"holder": "x", "process": 1%s, "place": "%s", "host": "here", "beats": 1}' % (
    b"0" * 30, locking._place().encode(),
)  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", ODD])
def test_an_invalid_lock_file_is_replaced(tmp_path, content):
    run = open_run_folder(str(tmp_path), "r", MINE)
    (tmp_path / "run-r").mkdir()
    (tmp_path / "run-r" / "lock.json").write_bytes(content)
    with lock_run(run) as lock:
        lock.check()


def test_a_folder_held_on_another_machine_is_taken_if_its_file_stops_changing(folder, capsys):
    run = open_run_folder(folder, "r", MINE)
    write_lock(run)
    start_s = time.monotonic()
    with lock_run(run) as lock:
        assert time.monotonic() - start_s >= 2
        lock.check()
    assert "waiting up to 2 s" in capsys.readouterr().err


def test_a_folder_held_on_another_machine_is_refused_while_its_file_changes(tmp_path):
    run = open_run_folder(str(tmp_path), "r", MINE)
    write_lock(run)
    timer = threading.Timer(0.5, write_lock, [run], {"beats": 2})
    timer.start()
    with pytest.raises(ContractError, match=r"got process .* on far"), lock_run(run):
        pass
    timer.join()


@pytest.fixture
def _in_background():
    """Signal handlers of the job when a script starts it with `&`: the shell ignores SIGINT."""
    handlers = {signal.SIGTERM: signal.default_int_handler, signal.SIGINT: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_in_background")
def test_a_process_that_loses_its_folder_stops_and_keeps_the_new_holder_s_file(tmp_path):
    run = open_run_folder(str(tmp_path), "r", MINE)

    def lose_it() -> None:
        with lock_run(run) as lock:
            write_lock(run)
            with pytest.raises(ContractError, match="on far"):
                lock.check()
            time.sleep(20)

    with pytest.raises(FaultError, match="got another process"):
        lose_it()
    assert json.loads((tmp_path / "run-r" / "lock.json").read_text())["holder"] == "other"


def test_an_interrupted_process_frees_its_folder(tmp_path):
    run = open_run_folder(str(tmp_path), "r", MINE)
    with pytest.raises(KeyboardInterrupt), lock_run(run):
        raise KeyboardInterrupt
    assert not (tmp_path / "run-r" / "lock.json").exists()
