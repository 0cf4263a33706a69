"""Part g: what a run holds in memory, by the length of its manifest."""

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.images import write_manifest
from tests.bench.timing import Table
from tests.chaos.cluster import descendants, title

REPOSITORY = Path(__file__).parents[2]
NUM_ROWS = (10_000, 100_000, 1_000_000)
SCORED_EVERY = 20
SAMPLED_EVERY_S = 0.5
WORKERS = {
    "PairScorer": "a scorer", "PairLoader": "a task worker", "Read": "a task worker",
    "Repartition": "a task worker", "Write": "a task worker", "_fetch": "a task worker",
}  # fmt: skip
"""Kinds of processes by what their titles say of their work; Ray gives a process any task."""
RAY_ACTOR = "an actor of Ray's"
DRIVER = ("driver", "driver at its exit")
OWN = ("RssAnon", "RssFile")
"""Resident memory but the object store's pages, which are counted once, whoever maps them."""


def write_tiny_rows(folder: Path, num_rows: int) -> Path:
    """Write a manifest in which one row in twenty has images, small ones; the others name none."""
    some = pq.read_table(write_manifest(folder, 320, side_px=96))
    columns = {"pair_id": pa.array([f"{row:08d}" for row in range(num_rows)])}
    for name in ("reference_uri", "distorted_uri"):
        uris = some[name].to_pylist()
        columns[name] = pa.array(
            [uris[row % 320] if row % SCORED_EVERY == 0 else None for row in range(num_rows)],
            pa.string(),
        )
    manifest = folder / f"tiny-{num_rows}.parquet"
    pq.write_table(pa.table(columns), manifest)
    return manifest


def kilobytes(process: int, *names: str) -> int:
    """Return the sum of some lines of a process's status, 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(names))


def peaks(manifest: Path, output: Path, *options: str) -> dict[str, float]:
    """Run the job, and return the most that each kind of process held, in MB."""
    start_s = time.monotonic()
    log = output.with_suffix(".log")
    with log.open("wb") as told, subprocess.Popen(
        [sys.executable, "jobs/score_manifest.py", f"--manifest.uri={manifest}",
         f"--output.uri={output}", "--failure.max_failed_fraction=1", "--compute.scorers=2",
         "--compute.compile=false", *options],
        cwd=REPOSITORY, stdout=told, stderr=told,
    ) as job:  # fmt: skip
        most = dict.fromkeys((*DRIVER, *WORKERS.values(), RAY_ACTOR, "object store"), 0)
        kinds: dict[int, str] = {}
        next_s = 0.0
        while job.poll() is None:
            # Often: at its exit it touches its libraries once more, for a tenth of a second.
            at_work, at_exit = DRIVER
            now = at_exit if list(output.glob("run-*/_SUCCESS")) else at_work
            most[now] = max(most[now], kilobytes(job.pid, *OWN))
            time.sleep(0.01)
            if time.monotonic() < next_s:
                continue
            next_s = time.monotonic() + SAMPLED_EVERY_S
            for process in descendants(job.pid):
                name = title(process)
                if "raylet/raylet" in name:
                    most["object store"] = max(most["object store"], kilobytes(process, "RssShmem"))
                elif name.startswith("ray::"):
                    known = [kind for work, kind in WORKERS.items() if work in name]
                    if known:
                        kinds[process] = known[0]
                    elif name != "ray::IDLE":
                        kinds.setdefault(process, RAY_ACTOR)
                    if process in kinds:
                        kind = kinds[process]
                        most[kind] = max(most[kind], kilobytes(process, *OWN))
        if job.returncode:
            raise RuntimeError(f"exit code {job.returncode}: {log.read_text()[-2000:]}")
    return {name: value / 1024 for name, value in most.items()} | {
        "minutes": (time.monotonic() - start_s) / 60
    }


def by_length(folder: Path) -> Table:
    """Part g: peaks of memory at 10 thousand, 100 thousand and a million tiny rows."""
    table = Table(
        "g. Memory at its peak, by the manifest's length, MB",
        ["rows", *DRIVER, *dict.fromkeys(WORKERS.values()), RAY_ACTOR, "object store", "minutes"],
        notes=[
            f"One row in {SCORED_EVERY} has images, of 96 px; the others name none and are "
            "`missing`. Resident memory, without the object store's. A task worker "
            "reads, loads and writes in turn; Ray's actors count, and bring workers up.",
        ],
    )  # fmt: skip
    for num_rows in NUM_ROWS:
        manifest = write_tiny_rows(folder / "in", num_rows)
        got = peaks(manifest, folder / f"out-{num_rows}")
        table.rows.append([str(num_rows), *got.values()])
        sys.stdout.write(f"{num_rows} rows: {got['minutes']:.1f} min\n")
        sys.stdout.flush()
    return table
