"""Rows that kill, stall or fill the process that decodes them: they get a status, others do not."""

import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from torch import Tensor

from jobs import score_manifest
from jobs.run_job import DONE
from pipeline.runs.finished import open_scores
from pipeline.scoring import graph
from pipeline.scoring.graph import build_graph
from pipeline.scoring.stages.load_and_score import LoadingPairScorer
from pipeline.scoring.stages.score import PairScorer
from tests.chaos.fatal.sitecustomize import ABORT_PX, HANG_PX, HOARD_PX, SEGFAULT_PX
from tests.chaos.runs import Job, write_images, write_manifest

STATUSES = {
    SEGFAULT_PX: "crashed", HANG_PX: "timed_out", HOARD_PX: "decode_error", ABORT_PX: "crashed",
}  # fmt: skip
KILLING, RAISING = {"pair-000007", "pair-000101"}, {"pair-000030"}


def plant_fatal_rows(folder: Path, expected: list[str], every: int) -> list[str]:
    """Make every n-th row of a manifest fatal, of each kind in turn; return the new statuses."""
    path = folder / "pairs.parquet"
    rows, expected = pq.read_table(path), list(expected)
    distorted = rows["distorted_uri"].to_pylist()
    for number, row in enumerate(range(every // 2, rows.num_rows, every)):
        width_px = list(STATUSES)[number % len(STATUSES)]
        image = folder / f"fatal_{width_px}.bmp"
        Image.new("RGB", (width_px, 96)).save(image)
        distorted[row], expected[row] = str(image), STATUSES[width_px]
    pq.write_table(rows.set_column(2, "distorted_uri", [distorted]), path)
    return expected


@pytest.mark.parametrize("num_scorers", [1, 2])  # two, one a CPU, load the images themselves
def test_a_row_that_kills_its_process_gets_a_status(tmp_path, monkeypatch, num_scorers):
    write_images(f"{tmp_path}/images")
    expected = write_manifest(f"{tmp_path}/pairs.parquet", f"{tmp_path}/images", 400)
    expected = plant_fatal_rows(tmp_path, expected, every=60)
    fatal = Path(__file__).parent / "fatal"
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(fatal), os.environ.get("PYTHONPATH", "")))
    )
    job = Job(
        f"{tmp_path}/pairs.parquet", f"{tmp_path}/out", "fatal", None, tmp_path / "log",
        more=("--images.max_decode_s=4", f"--compute.scorers={num_scorers}"),
    )  # fmt: skip
    job.start()
    job.finish(max_starts=1)
    assert Counter(expected)["crashed"] == 3
    assert job.results()["status"].to_pylist() == expected
    assert ("loading too" in (tmp_path / "log").read_text()) == (num_scorers == 2)


class Fatal:
    """A score stage that some pairs kill and for which others raise an error, alone or not."""

    def _score_batch(self, rows: pa.Table, indices: list[int]) -> Tensor:
        ids = {rows.column("pair_id")[index].as_py() for index in indices}
        if ids & KILLING:
            os.kill(os.getpid(), signal.SIGKILL)
        if ids & RAISING:
            raise ValueError("no such luck")
        return super()._score_batch(rows, indices)  # type: ignore[misc]


class FatalScorer(Fatal, PairScorer):
    pass


class FatalLoadingScorer(Fatal, LoadingPairScorer):
    pass


@pytest.mark.parametrize(("num_cpus", "stage"), [(2, FatalScorer), (1, FatalLoadingScorer)])
def test_a_pair_that_kills_its_scorer_gets_a_status(tmp_path, monkeypatch, num_cpus, stage):
    write_images(f"{tmp_path}/images")
    expected = write_manifest(f"{tmp_path}/pairs.parquet", f"{tmp_path}/images", 130)
    for pair_id in KILLING | RAISING:
        expected[int(pair_id[-6:])] = "crashed"
    monkeypatch.setattr(graph, "build_graph", partial(build_graph, score_stage=stage))
    arguments = [
        f"--manifest.uri={tmp_path}/pairs.parquet", f"--output.uri={tmp_path}/out",
        "--output.run_id=run", "--failure.max_failed_fraction=1",
    ]  # fmt: skip
    ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    try:
        assert score_manifest.main(arguments) == DONE
    finally:
        ray.shutdown()
    rows = open_scores(f"{tmp_path}/out/run-run").to_table().sort_by("pair_id").to_pylist()
    assert [row["status"] for row in rows] == expected
    errors = {row["pair_id"]: row["error"] for row in rows if row["status"] == "crashed"}
    assert all("a scorer that died 2 times" in errors[pair_id] for pair_id in KILLING)
    assert all("ValueError: no such luck" in errors[pair_id] for pair_id in RAISING)
