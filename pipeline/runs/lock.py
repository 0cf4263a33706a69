"""Keep other processes out of a run's folder: lock.json, which its writer rewrites as it lives.

This needs neither locks nor synchronised clocks in the store: a process that finds the file watches
whether it changes.
"""

import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.runs.errors import ContractError, FaultError
from pipeline.runs.records import LockRecord
from pipeline.runs.run import RunFolder
from pipeline.runs.storage import STORE_ERRORS

BEAT_S = 5.0
"""Time between two writes of the file."""
WATCH_S = 25.0
"""A file that has not changed for this long belongs to a dead process; five beats."""
SETTLE_S = 1.0
"""Time in which another process that started at the same moment has written its file, too."""


class RunLock:
    """This process's right to write into a run's folder.

    Attributes:
        folder: the run's folder.
        is_lost: whether another process has taken the folder.
        succeeds_dead: whether a process that held the folder has died, and not released it.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Take the folder; use `lock_run`, which also releases it.

        Raises:
            ContractError: another process holds it.
            FaultError: the file cannot be written.
        """
        self.folder = folder
        self.is_lost = False
        self._me = LockRecord(
            holder=uuid.uuid4().hex,
            process=os.getpid(),
            place=_place(),
            host=socket.gethostname(),
            beats=0,
        )
        self._released = threading.Event()
        self.succeeds_dead = self._wait_for_holder()
        self._write()
        self._written_s = time.monotonic()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def check(self) -> None:
        """Check that this process still holds the folder.

        Raises:
            ContractError: another process has taken it.
        """
        time.sleep(max(0.0, self._written_s + SETTLE_S - time.monotonic()))
        held = self._read()
        if held is None or held.holder != self._me.holder:
            raise ContractError(_describe(self.folder, held))

    def release(self) -> None:
        """Stop rewriting the file, and remove it if it is still this process's."""
        self._released.set()
        self._keeper.join()  # otherwise it could write the file once more
        with suppress(*STORE_ERRORS):
            held = self._read()
            if held is not None and held.holder == self._me.holder:
                self.folder.fs.rm_file(f"{self.folder.path}/lock.json")

    def _read(self) -> LockRecord | None:
        self.folder.fs.invalidate_cache()
        try:
            return self.folder.read_lock()
        except (FileNotFoundError, IsADirectoryError, ContractError):  # no file, or a damaged one
            return None

    def _write(self) -> None:
        self._me = self._me.model_copy(update={"beats": self._me.beats + 1})
        self.folder.write_lock(self._me)

    def _wait_for_holder(self) -> bool:
        """Return when no process holds the folder, and whether the last one that did has died.

        Raises:
            ContractError: its holder is alive.
        """
        found = self._read()
        if found is None or _is_dead(found):
            return found is not None
        sys.stderr.write(
            f"waiting up to {WATCH_S:.0f} s to see whether another process still writes to "
            f"{self.folder.uri}\n"
        )
        deadline_s = time.monotonic() + WATCH_S
        while time.monotonic() < deadline_s:
            time.sleep(1)
            held = self._read()
            if held is None:
                return False
            if held != found:
                raise ContractError(_describe(self.folder, held))
        return True

    def _keep(self) -> None:
        """Rewrite the file until it is released; when it is lost, send this process SIGTERM."""
        while not self._released.wait(BEAT_S):
            with suppress(*STORE_ERRORS, FaultError):  # the store can be away for a while
                held = self._read()
                if held is not None and held.holder != self._me.holder:
                    self.is_lost = True
                    # Not SIGINT: background processes of a shell script ignore it.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._write()


@contextmanager
def lock_run(folder: RunFolder) -> Iterator[RunLock]:
    """Hold a run's folder while the context lasts.

    When another process takes the folder, this process gets SIGTERM. Its handler must raise
    KeyboardInterrupt, as `signal.default_int_handler` does.

    Raises:
        ContractError: another process holds the folder.
        FaultError: the folder cannot be written, or another process has taken it.
    """
    lock = RunLock(folder)
    try:
        yield lock
    except KeyboardInterrupt:
        if lock.is_lost:
            raise FaultError(
                f"{folder.uri}: expected to be its only writer, got another process; stopped"
            ) from None
        raise
    finally:
        lock.release()


def _place() -> str | None:
    """Return where process ids are unique: boot and process namespace; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _is_dead(held: LockRecord) -> bool:
    """Return whether a holder ran in this place and no such process is left."""
    if held.place is None or held.place != _place():
        return False
    try:
        os.kill(held.process, 0)
    except (ProcessLookupError, OverflowError):  # no such process, or an impossible process id
        return True
    except PermissionError:
        pass
    return False


def _describe(folder: RunFolder, held: LockRecord | None) -> str:
    got = f"process {held.process} on {held.host}" if held else "one that has ended"
    return f"output: expected no other process writing to {folder.uri}, got {got}"
