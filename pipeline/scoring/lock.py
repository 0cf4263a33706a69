"""Keep a second process out of a run's folder: lock.json, rewritten as long as its writer lives.

It works on every store, also those without locks or without times that agree: whoever finds the
file watches whether it changes.
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
"""Time between two writes of a holder's file."""
WATCH_S = 25.0
"""A file that has not changed for so long was left by a process that died."""
SETTLE_S = 1.0
"""Time in which another process that began at the same moment has written its file too."""


class RunLock:
    """The right to write into a run's folder, held by this process until it ends or loses it."""

    def __init__(self, folder: RunFolder) -> None:
        """Take the folder; `hold` does that and lets it go again.

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
        self._ended = threading.Event()
        self._wait_for_holder()
        self._write()
        self._written_s = time.monotonic()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def check(self) -> None:
        """Raise when another process has taken the folder.

        Raises:
            ContractError: it has.
        """
        time.sleep(max(0.0, self._written_s + SETTLE_S - time.monotonic()))
        held = self._read()
        if held is None or held.holder != self._me.holder:
            raise ContractError(_describe(self.folder, held))

    def _read(self) -> LockRecord | None:
        self.folder.fs.invalidate_cache()
        try:
            return self.folder.read_lock()
        except (FileNotFoundError, IsADirectoryError, ContractError):  # none, or a damaged one
            return None

    def _write(self) -> None:
        self._me = self._me.model_copy(update={"beats": self._me.beats + 1})
        self.folder.write_lock(self._me)

    def _wait_for_holder(self) -> None:
        """Return once nobody holds the folder.

        Raises:
            ContractError: its holder lives.
        """
        found = self._read()
        if found is None or _has_ended(found):
            return
        sys.stderr.write(
            f"waiting {WATCH_S:.0f} s to see whether another process still writes to "
            f"{self.folder.uri}\n"
        )
        deadline_s = time.monotonic() + WATCH_S
        while time.monotonic() < deadline_s:
            time.sleep(1)
            held = self._read()
            if held is None:
                return
            if held != found:
                raise ContractError(_describe(self.folder, held))

    def _keep(self) -> None:
        """Rewrite the file until the lock ends; send this process SIGTERM when it is lost."""
        while not self._ended.wait(BEAT_S):
            with suppress(*STORE_ERRORS, FaultError):  # a store that is away for a while
                held = self._read()
                if held is not None and held.holder != self._me.holder:
                    self.is_lost = True
                    # Not SIGINT, which processes in a script's background ignore.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._write()

    def end(self) -> None:
        """Stop rewriting, and remove the file if it is still this process's."""
        self._ended.set()
        self._keeper.join()  # else it might write the file once more
        with suppress(*STORE_ERRORS):
            held = self._read()
            if held is not None and held.holder == self._me.holder:
                self.folder.fs.rm_file(f"{self.folder.path}/lock.json")


@contextmanager
def hold(folder: RunFolder) -> Iterator[RunLock]:
    """Hold a run's folder for as long as the context lasts.

    When another process takes it meanwhile, this one gets SIGTERM, whose handler must raise
    KeyboardInterrupt, as `signal.default_int_handler` does.

    Args:
        folder: of the run.

    Raises:
        ContractError: another process holds it.
        FaultError: the folder cannot be written, or another process took it meanwhile.
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
        lock.end()


def _place() -> str | None:
    """Return what processes must share for their numbers to mean the same; None if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _has_ended(held: LockRecord) -> bool:
    """Return whether a holder is known to be gone: it ran here, and no such process is left."""
    if held.place is None or held.place != _place():
        return False
    try:
        os.kill(held.process, 0)
    except (ProcessLookupError, OverflowError):  # no such number, or one that none can have
        return True
    except PermissionError:
        pass
    return False


def _describe(folder: RunFolder, held: LockRecord | None) -> str:
    got = f"process {held.process} on {held.host}" if held else "one that has ended"
    return f"output.run_id: expected no other process writing to {folder.uri}, got {got}"
