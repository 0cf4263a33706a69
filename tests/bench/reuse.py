"""Part h: a second night of which one image in a hundred has changed, against the first."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.images import write_manifest
from tests.bench.job import run_job
from tests.bench.timing import Table

NUM_ROWS = 20_000
CHANGED_EVERY = 100
REPEATS = 3  # of the second night and of the two rows: both take seconds, so one time is noisy
START = ("--compute.scorers=2", "--compute.compile=true")


def nights(manifest: Path, images: Path, output: Path) -> list[float]:
    """Return the seconds of a first night, a second one, and of a run of two rows.

    The last two are medians of runs in turn.
    """
    few = manifest.with_suffix(".few.parquet")
    pq.write_table(pq.read_table(manifest).slice(0, 2), few)
    first = run_job(manifest, output / "first", *START)
    for row in range(0, NUM_ROWS, CHANGED_EVERY):
        with (images / f"d{row}.jpg").open("ab") as file:
            file.write(b"changed")
    time.sleep(3)  # what was changed just now has no tag
    (run,) = (output / "first").glob("run-*")
    seconds, starts = [], []
    for number in range(REPEATS):
        night = run_job(manifest, output / f"second-{number}", *START, f"--reuse-from={run}")
        start = run_job(few, output / f"start-{number}", *START)
        seconds.append(night["scoring"])
        starts.append(start["scoring"])
    return [first["scoring"], median(seconds), median(starts)]


def second_night(folder: Path) -> Table:
    """Part h: on local disk, and on S3 as a small server on loopback speaks it."""
    table = Table(
        f"h. A second night of {NUM_ROWS:,} JPEG pairs, 256 px, 1 % of the outputs changed",
        ["images on", "first night, s", "second, s", "start-up, s", "second / first after it"],
        notes=[
            "With two scorers and compiled kernels. Start-up is the time of a run of two rows; it "
            f"and the second night are medians of {REPEATS} runs in turn. The server on loopback "
            "shares the cores with the job.",
        ],
    )
    images = folder / "images"
    local = write_manifest(images, NUM_ROWS, side_px=256)

    def add(name: str, times: list[float]) -> None:
        first, second, start = times
        table.rows.append([name, first, second, start, (second - start) / (first - start)])
        sys.stdout.write(f"{table.rows[-1]}\n")
        sys.stdout.flush()

    add("local disk", nights(local, images, folder / "local"))
    port = 9_817
    command = [sys.executable, "-m", "tests.bench.s3_files", str(images), str(port)]
    with subprocess.Popen(command) as server:
        try:
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench",
            }  # fmt: skip
            rows = pq.read_table(local)
            for index, name in enumerate(("reference_uri", "distorted_uri"), start=1):
                uris = [f"s3://bench/{Path(path).name}" for path in rows[name].to_pylist()]
                rows = rows.set_column(index, name, pa.array(uris))
            remote = folder / "remote.parquet"
            pq.write_table(rows, remote)
            add("S3 on loopback", nights(remote, images, folder / "s3"))
        finally:
            server.terminate()
    return table
