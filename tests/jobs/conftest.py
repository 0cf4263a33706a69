import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster

from jobs import score_manifest
from pipeline.runs.finished import open_scores
from pipeline.scoring.images.tags import UNSETTLED_S

REPOSITORY = Path(__file__).parents[2]
JOB = [sys.executable, "jobs/score_manifest.py", "--config=conf/debug/score_manifest.yaml"]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    # Ray's agent of a "local" cluster listens at a fixed port. Where another cluster holds it, the
    # agent gives no metrics. That of a `Cluster` can take any free port.
    head = {"num_cpus": 2, "include_dashboard": False, "dashboard_agent_listen_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def images() -> dict[str, bytes]:
    """Encoded images by file name: five references, each with four distorted versions."""
    generator = np.random.default_rng(0)
    encoded = {}
    for number in range(5):
        size = (96 + 8 * number, 120)
        rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
        waves = 127 + 60 * np.sin(rows / (3 + number)) + 60 * np.cos(columns / 7)
        reference = np.repeat(waves[..., None], 3, axis=2)
        encoded[f"r{number}.png"] = encode(reference.astype(np.uint8))
        for level in range(4):
            noise = generator.normal(0, 5 * 2**level, reference.shape)
            encoded[f"d{number}_{level}.png"] = encode(
                (reference + noise).clip(0, 255).astype(np.uint8)
            )
    return encoded


@pytest.fixture(scope="session")
def image_folder(images, tmp_path_factory) -> Path:
    """A local folder with the images and with files that cannot be scored."""
    folder = tmp_path_factory.mktemp("images")
    for name, content in images.items():
        (folder / name).write_bytes(content)
    (folder / "broken.png").write_bytes(images["r0.png"][:100])
    (folder / "small.png").write_bytes(encode(np.zeros((40, 40, 3), np.uint8)))
    wait_for_tags()
    return folder


def wait_for_tags() -> None:
    """Wait until files that were written just now have tags."""
    time.sleep(UNSETTLED_S + 0.1)


def make_rows(folder: str, num_rows: int) -> pa.Table:
    """Return a manifest of good pairs, with two columns that pass through."""
    numbers = [i % 5 for i in range(num_rows)]
    levels = [i // 5 % 4 for i in range(num_rows)]
    return pa.table(
        {
            "pair_id": [f"pair-{i:05d}" for i in range(num_rows)],
            "reference_uri": [f"{folder}/r{number}.png" for number in numbers],
            "distorted_uri": [
                f"{folder}/d{n}_{level}.png" for n, level in zip(numbers, levels, strict=True)
            ],
            "level": pa.array(levels, pa.int8()),
            "prompt": ["a prompt, ünïcode", None] * (num_rows // 2) + ["x"] * (num_rows % 2),
        }
    )


def write_manifest(path: Path, rows: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)
    return str(path)


@pytest.fixture(scope="session")
def manifest(image_folder, tmp_path_factory) -> str:
    """Sixty good pairs."""
    path = tmp_path_factory.mktemp("manifest") / "pairs"  # any name is read as Parquet
    return write_manifest(path, make_rows(str(image_folder), 60))


@pytest.fixture(scope="session")
def bytes_manifest(images, tmp_path_factory) -> str:
    """Ten good pairs whose images are in the manifest itself."""
    names = [(f"r{i % 5}.png", f"d{i % 5}_{i // 5}.png") for i in range(10)]
    columns = {
        "pair_id": [f"pair-{i}" for i in range(10)],
        "reference_bytes": [images[reference] for reference, _ in names],
        "distorted_bytes": [images[distorted] for _, distorted in names],
    }
    return write_manifest(tmp_path_factory.mktemp("bytes") / "pairs.parquet", pa.table(columns))


def score(manifest: str, output: Path, *arguments: str) -> int:
    """Run the job in this process, and return its exit code."""
    return score_manifest.main(
        [
            "--config=conf/debug/score_manifest.yaml",
            f"--manifest.uri={manifest}",
            f"--output.uri={output}",
            *arguments,
        ]
    )


def read(output: Path) -> pa.Table:
    """Return the results of the only run in a folder of runs."""
    (run,) = output.glob("run-*")
    return open_scores(str(run)).to_table().sort_by("pair_id")


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def start_job(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the job in its own process, as a user does."""
    return subprocess.Popen(
        [*JOB, *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


PLANTED = {
    "missing": "absent.png",
    "forbidden": "/etc/hostname",
    "unreadable": "",
    "decode_error": "broken.png",
    "too_small": "small.png",
    "size_mismatch": "d1_0.png",
}


def plant(rows: pa.Table, folder: Path) -> tuple[pa.Table, list[str]]:
    """Break every tenth row, with each status in turn; return the rows and expected statuses."""
    uris, expected = rows["distorted_uri"].to_pylist(), ["ok"] * rows.num_rows
    references = rows["reference_uri"].to_pylist()
    for number, i in enumerate(range(0, rows.num_rows, 10)):
        status = list(PLANTED)[number % len(PLANTED)]
        uris[i], expected[i] = str(folder / PLANTED[status]), status
        if status == "too_small":
            references[i] = uris[i]
    rows = rows.set_column(1, "reference_uri", pa.array(references))
    return rows.set_column(2, "distorted_uri", pa.array(uris)), expected
