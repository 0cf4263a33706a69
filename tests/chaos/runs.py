"""One manifest, scored again and again under faults, and held against an undisturbed run."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.runs.finished import open_scores

REPOSITORY = Path(__file__).parents[2]
ROWS_PER_FILE = 64
NUM_REFERENCES, NUM_LEVELS = 40, 5
PLANTED_EVERY = 50
PLANTED = {"missing": "absent", "decode_error": "broken", "too_small": "small",
           "size_mismatch": "other_size"}  # fmt: skip
SCORES = ["spips_score", "tradition_score", "percept_score", "semantic_score"]


def _encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder: str) -> None:
    """Write references, distorted versions of each, and images that cannot be scored."""
    generator = np.random.default_rng(0)
    contents = {"broken.png": b"\x89PNG\r\n\x1a\nno more"}
    contents["small.png"] = _encode(np.zeros((40, 40, 3), np.uint8))
    contents["other_size.png"] = _encode(np.zeros((200, 120, 3), np.uint8))
    for number in range(NUM_REFERENCES):
        rows, columns = np.mgrid[0:96, 0:120]
        waves = 127 + 60 * np.sin(rows / (3 + number)) + 60 * np.cos(columns / (2 + number % 7))
        reference = np.repeat(waves[..., None], 3, axis=2)
        contents[f"r{number}.png"] = _encode(reference.astype(np.uint8))
        for level in range(NUM_LEVELS):
            noise = generator.normal(0, 5 * 2**level, reference.shape)
            pixels = (reference + noise).clip(0, 255).astype(np.uint8)
            contents[f"d{number}_{level}.png"] = _encode(pixels)
    fs, path = fsspec.core.url_to_fs(folder)
    fs.makedirs(path, exist_ok=True)
    for name, content in contents.items():
        fs.pipe_file(f"{path}/{name}", content)


def write_manifest(uri: str, images: str, num_rows: int) -> list[str]:
    """Write a manifest in which some rows must fail; return the expected status of each."""
    numbers = np.random.default_rng(1).integers(0, NUM_REFERENCES, num_rows)
    uris, expected = [], []
    for i, number in enumerate(numbers):
        status = list(PLANTED)[i // PLANTED_EVERY % 4] if i % PLANTED_EVERY == 0 else "ok"
        name = PLANTED.get(status, f"d{number}_{i % NUM_LEVELS}")
        uris.append((f"{images}/{'small' if status == 'too_small' else f'r{number}'}.png",
                     f"{images}/{name}.png"))  # fmt: skip
        expected.append(status)
    references, distorted = zip(*uris, strict=True)
    rows = pa.table({"pair_id": [f"pair-{i:06d}" for i in range(num_rows)],
                     "reference_uri": references, "distorted_uri": distorted})  # fmt: skip
    fs, path = fsspec.core.url_to_fs(uri)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    with fs.open(path, "wb") as file:
        pq.write_table(rows, file)
    return expected


@dataclass
class Job:
    """A run of the job, by as many processes as it takes.

    Attributes:
        manifest: URI.
        output: URI of the folder of runs.
        name: of the run.
        address: of the Ray cluster; None to start one.
        log: where its output goes.
        more: arguments.
        starts: number of processes so far.
    """

    manifest: str
    output: str
    name: str
    address: str | None
    log: Path
    more: tuple[str, ...] = ()
    starts: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        environment = os.environ | ({"RAY_ADDRESS": self.address} if self.address else {})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "jobs/score_manifest.py",
                 "--config=conf/debug/score_manifest.yaml",
                 f"--manifest.uri={self.manifest}", f"--output.uri={self.output}",
                 f"--output.run_id={self.name}", f"--output.rows_per_file={ROWS_PER_FILE}",
                 "--failure.max_failed_fraction=1", "--compute.scorers=2", *self.more],
                cwd=REPOSITORY, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        self.starts += 1

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def num_files(self) -> int:
        """Return how many results files lie there, complete or not."""
        fs, path = fsspec.core.url_to_fs(f"{self.output}/run-{self.name}/scores")
        fs.invalidate_cache()
        return len(fs.find(path)) if fs.exists(path) else 0

    def wait_for_files(self, more_than: int, limit_s: float = 300) -> float:
        """Wait for another results file or the job's end; return the seconds it took."""
        start_s = time.monotonic()
        while self.is_running and self.num_files() <= more_than:
            if time.monotonic() - start_s > limit_s:
                raise TimeoutError(f"no progress in {limit_s} s; see {self.log}")
            time.sleep(0.1)
        return time.monotonic() - start_s

    def finish(self, max_starts: int = 5) -> None:
        """Wait for the end; start again what ended with a fault, as a user would."""
        while True:
            assert self.process is not None
            code = self.process.wait(900)
            if code == 0:
                return
            if self.starts >= max_starts:
                raise RuntimeError(f"exit code {code} after {self.starts} starts; see {self.log}")
            self.start()

    def results(self) -> pa.Table:
        return open_scores(f"{self.output}/run-{self.name}").to_table().sort_by("pair_id")


def compare(results: pa.Table, expected: list[str], undisturbed: pa.Table) -> dict[str, int]:
    """Return how many rows are lost, doubled, or wrong: another status, or any score moved."""
    ids = results["pair_id"].to_pylist()
    wanted = undisturbed["pair_id"].to_pylist()
    rows = {row["pair_id"]: row for row in results.to_pylist()}
    same = {row["pair_id"]: row for row in undisturbed.to_pylist()}
    wrong = 0
    for name, status in zip(wanted, expected, strict=True):
        row: dict[str, Any] = rows.get(name, {})
        wrong += bool(row) and (
            row["status"] != status or any(row[score] != same[name][score] for score in SCORES)
        )
    return {
        "lost": len(set(wanted) - set(ids)),
        "doubled": len(ids) - len(set(ids)),
        "wrong": wrong,
    }


def moments(choice: random.Random, number: int, longest_s: float = 6.0) -> list[float]:
    """Return so many waits between faults."""
    return [choice.uniform(0.5, longest_s) for _ in range(number)]
