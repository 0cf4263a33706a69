"""Runs under faults: what was injected, what became of the rows, and how long it took to go on."""

import os
import random
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tests.chaos.cluster import Machines
from tests.chaos.proxy import FaultProxy
from tests.chaos.runs import Job, compare, moments

KILLS = {
    "local": ("loading scorer", "node", "driver"),
    "s3": ("scorer", "load worker", "node", "driver"),
}
"""What is killed of a run, by where its images are: scorers load local ones themselves."""


@dataclass
class Outcome:
    """What one kind of fault did.

    Attributes:
        injected: how often.
        runs: how many runs it was done to.
        restarts: how often the command had to be given again.
        lost: rows without a result.
        doubled: rows with more than one.
        wrong: rows with another status or score than without faults.
        recovery_s: for each fault, seconds until the next results file.
    """

    injected: int = 0
    runs: int = 0
    restarts: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    recovery_s: list[float] = field(default_factory=list)


@dataclass
class Chaos:
    """The setting: where pairs are, what is expected of them, and a record of what happened.

    Attributes:
        expected: status of each row.
        undisturbed: results of a run without faults.
        choice: what to break, and when.
        logs: folder of the jobs' output.
        outcomes: by fault.
    """

    expected: list[str]
    undisturbed: pa.Table
    choice: random.Random
    logs: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def settle(self, job: Job, injected: dict[str, int], restarts: dict[str, int]) -> None:
        """Hold a finished run against the undisturbed one, and count it to its faults."""
        found = compare(job.results(), self.expected, self.undisturbed)
        for fault, number in injected.items():
            outcome = self.outcomes.setdefault(fault, Outcome())
            outcome.injected += number
            outcome.runs += 1
            outcome.restarts += restarts.get(fault, 0)
            outcome.lost += found["lost"]
            outcome.doubled += found["doubled"]
            outcome.wrong += found["wrong"]

    def _recover(self, fault: str, job: Job) -> None:
        seconds = job.wait_for_files(job.num_files())
        self.outcomes.setdefault(fault, Outcome()).recovery_s.append(seconds)

    def kill(
        self, job: Job, machines: Machines, kinds: list[str], *, longest_s: float = 6.0
    ) -> None:
        """Run a job and kill something of each kind at random moments while it scores."""
        injected: Counter[str] = Counter()
        job.start()
        job.wait_for_files(0)
        for kind, wait_s in zip(kinds, moments(self.choice, len(kinds), longest_s), strict=True):
            _wait(job, wait_s)
            injected[kind] += self.kill_one(kind, job, machines)
        self.settle_kills(job, injected)

    def kill_one(self, kind: str, job: Job, machines: Machines) -> bool:
        """Kill what is of a kind as soon as there is one, and wait until the run is a file further.

        Returns:
            Whether there was one before the job's end.
        """
        done = False
        while job.is_running and not done:
            if kind == "driver":
                job.kill()
                job.start()
                done = True
            elif kind == "node":
                done = machines.kill_node(self.choice)
            else:
                done = machines.kill_process(kind, self.choice)
                if not done:
                    _wait(job, 0.05)
        if done:
            self._recover(kind, job)
        return done

    def settle_kills(self, job: Job, injected: Counter[str]) -> None:
        """Let a job come to its end, and settle it."""
        job.finish()
        others = job.starts - 1 - injected["driver"]
        restarts = {"driver": injected["driver"]} | ({"node": others} if others else {})
        self.settle(job, +injected, restarts)

    def spoil(self, job: Job, proxy: FaultProxy, fault: str, share: float) -> None:
        """Run a job whose storage spoils a share of its answers."""
        before = proxy.injected[fault]
        proxy.fault, proxy.share = fault, share
        try:
            job.start()
            job.finish()
        finally:
            proxy.fault = None
        self.settle(job, {fault: proxy.injected[fault] - before}, {fault: job.starts - 1})

    def restart_store(self, job: Job, restart: Callable[[], None], times: int) -> None:
        """Run a job and restart its storage server at random moments."""
        fault, injected = "storage server restarted", 0
        job.start()
        job.wait_for_files(0)
        for wait_s in moments(self.choice, times, longest_s=3):
            _wait(job, wait_s)
            if not job.is_running:
                break
            restart()
            injected += 1
            self._recover(fault, job)
        job.finish()
        self.settle(job, {fault: injected}, {fault: job.starts - 1})

    def fill_disk(self, job: Job, folder: Path, *, first_kb: int, step_kb: int) -> None:
        """Run a job whose disk fills up, and make room for a little more each time."""
        fault, times, size_kb = "disk full", 0, first_kb
        with small_disk(folder, size_kb):
            job.start()
            while True:
                assert job.process is not None
                code = job.process.wait(900)
                if code == 0:
                    break
                if code != 1 or "No space left" not in job.log.read_text():
                    raise RuntimeError(f"expected a fault, got exit code {code}; see {job.log}")
                times += 1
                size_kb += step_kb
                resize_disk(folder, size_kb)
                before = job.num_files()
                job.start()
                seconds = job.wait_for_files(before)
                self.outcomes.setdefault(fault, Outcome()).recovery_s.append(seconds)
            self.settle(job, {fault: times}, {fault: job.starts - 1})


def _wait(job: Job, seconds: float) -> None:
    assert job.process is not None
    try:
        job.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


@contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[None]:
    """Mount a file system of a few kilobytes; needs root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize_disk(folder: Path, size_kb: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_kb}k", folder], check=True)


def can_mount(folder: Path) -> bool:
    """Return whether this process may mount file systems."""
    if os.geteuid() != 0:
        return False
    try:
        with small_disk(folder, 16):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the outcomes as Markdown."""
    lines = [
        "| fault | times | runs | command given again | rows lost | doubled | wrong | "
        "recovery, s: median | longest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fault, one in outcomes.items():
        times = one.recovery_s
        shown = [f"{statistics.median(times):.1f}", f"{max(times):.1f}"] if times else ["", ""]
        lines.append(
            f"| {fault} | {one.injected} | {one.runs} | {one.restarts} | {one.lost} | "
            f"{one.doubled} | {one.wrong} | {shown[0]} | {shown[1]} |"
        )
    return "\n".join(lines) + "\n"
