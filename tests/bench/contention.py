"""Part m: commands beside another program that keeps one core busy, against the idle machine."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.images import write_manifest
from tests.bench.job import REPOSITORY
from tests.bench.timing import Table

NUM_ROWS, NUM_ROWS_FOR_RAY = 120, 2_000
REPEATS = 3


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy while the context lasts."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def seconds(*arguments: str) -> float:
    """Return the time of a command of this project, from its start to its exit."""
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return time.monotonic() - start_s


def beside_a_busy_core(folder: Path) -> Table:
    """Measure each command alone and beside the other program, in turn."""
    few = write_manifest(folder / "few", NUM_ROWS, side_px=256)
    many = write_manifest(folder / "many", NUM_ROWS_FOR_RAY, side_px=256)
    scored = folder / "scored"
    seconds("score", str(few), "-o", str(scored))
    (run,) = scored.glob("run-*")
    images = [str(next((folder / "few").glob(f"{letter}*.jpg"))) for letter in "rd"]
    commands: dict[str, tuple[str, ...]] = {
        "spips pair": ("pair", *images),
        f"spips score, {NUM_ROWS} pairs": ("score", str(few)),
        f"spips score, {NUM_ROWS_FOR_RAY:,} pairs, on Ray": ("score", str(many)),
        f"spips audit, {NUM_ROWS} rows": ("audit", str(run)),
        "spips filter": (
            "filter", f"--scores.uri={run}", "--bounds=[{column: ssim, at_least: 0.5}]",
        ),
    }  # fmt: skip
    table = Table(
        "m. Beside a program that keeps one core busy",
        ["command", "alone, s", "beside it, s", "slower by"],
        notes=[f"From the command to its exit, medians of {REPEATS}, in turn, after one of each."],
    )
    number = 0
    for name, command in commands.items():

        def measure(command: tuple[str, ...] = command) -> float:
            nonlocal number
            number += 1
            new = folder / f"out-{number}"
            takes_output = {"pair": [], "filter": [f"--output.uri={new}"]}
            return seconds(*command, *takes_output.get(command[0], ["-o", str(new)]))

        measure()
        alone, beside = [], []
        for _ in range(REPEATS):
            alone.append(measure())
            with busy_core():
                beside.append(measure())
        medians = statistics.median(alone), statistics.median(beside)
        table.rows.append([name, *medians, medians[1] / medians[0]])
        sys.stdout.write(f"{table.rows[-1]}\n")
        sys.stdout.flush()
    return table
