"""A small manifest is scored in the job's own process, without Ray: the same rows to the bit."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from PIL import Image

from jobs.run_job import DONE, FAULT
from pipeline.runs.finished import open_run
from pipeline.runs.lock import RunLock, _place
from pipeline.scoring.config import ScoreManifestConfig
from pipeline.scoring.in_process import _made_ahead, fits_this_process
from pipeline.scoring.plan import make_plan
from tests.chaos.fatal.sitecustomize import ABORT_PX, HANG_PX
from tests.jobs.conftest import (
    REPOSITORY,
    make_rows,
    read,
    score,
    start_job,
    wait_for_tags,
    write_manifest,
)
from tests.jobs.test_score_manifest import plant

HERE = "scorers   none: this process scores, because there are few rows"
FATAL = Path(__file__).parents[1] / "chaos" / "fatal"


@pytest.fixture
def planted(image_folder, tmp_path) -> tuple[str, list[str]]:
    """A manifest with rows of each status, and the expected statuses."""
    rows, expected = plant(make_rows(str(image_folder), 260), image_folder)
    return write_manifest(tmp_path / "pairs.parquet", rows), expected


def test_a_small_manifest_gets_the_same_rows_as_from_ray(planted, image_folder, tmp_path, capfd):
    manifest, expected = planted
    arguments = [f"--images.allowed_uri_prefixes={image_folder}", "--failure.max_failed_fraction=1"]
    assert score(manifest, tmp_path / "here", *arguments, "--output.rows_per_file=200") == DONE
    assert HERE in capfd.readouterr().out
    assert not ray.is_initialized()
    here = read(tmp_path / "here")
    assert here["status"].to_pylist() == expected
    (run,) = (tmp_path / "here").glob("run-*")
    (attempt,) = open_run(str(run)).record.attempts
    assert len(attempt.files) == 2
    assert attempt.scorers["num_scorers"] == 0
    assert attempt.num_rows == 260

    assert score(manifest, tmp_path / "ray", *arguments, "--compute.scorers=1") == DONE
    ray.shutdown()
    assert HERE not in capfd.readouterr().out
    assert here.equals(read(tmp_path / "ray"))


def test_failed_rows_are_retried_and_changed_images_scored_here(images, tmp_path, capfd):
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d0_0.png").unlink()
    wait_for_tags()
    path = write_manifest(tmp_path / "pairs.parquet", make_rows(str(tmp_path), 40))
    arguments = [path, tmp_path / "out", "--failure.max_failed_fraction=1"]
    assert score(*arguments) == DONE
    assert read(tmp_path / "out")["status"].to_pylist().count("missing") == 2
    (tmp_path / "d0_0.png").write_bytes(images["d0_0.png"])
    wait_for_tags()
    assert score(*arguments, "--retry-failed") == DONE
    (tmp_path / "d1_0.png").write_bytes(images["d1_1.png"])
    assert score(*arguments, "--rescan") == DONE
    rows = read(tmp_path / "out")
    assert set(rows["status"].to_pylist()) == {"ok"}
    changed = {"d0_0.png": 2, "d1_0.png": 3}
    names = [Path(uri).name for uri in rows["distorted_uri"].to_pylist()]
    assert rows["run_attempt"].to_pylist() == [changed.get(name, 1) for name in names]
    assert capfd.readouterr().out.count(HERE) == 3


def test_an_image_that_kills_its_decoder_gets_a_status_here(images, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FATAL))
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
    rows = make_rows(str(tmp_path), 20)
    distorted = rows["distorted_uri"].to_pylist()
    for row, width_px in ((3, ABORT_PX), (11, HANG_PX)):
        distorted[row] = f"{tmp_path}/fatal_{row}.bmp"
        Image.new("RGB", (width_px, 96)).save(distorted[row])
    rows = rows.set_column(2, "distorted_uri", pa.array(distorted))
    path = write_manifest(tmp_path / "pairs.parquet", rows)
    more = ["--images.max_decode_s=4", "--failure.max_failed_fraction=1"]
    assert score(path, tmp_path / "out", *more) == DONE
    statuses = read(tmp_path / "out")["status"].to_pylist()
    assert [i for i, status in enumerate(statuses) if status != "ok"] == [3, 11]
    assert (statuses[3], statuses[11]) == ("crashed", "timed_out")


def test_a_killed_process_leaves_nothing_and_the_next_one_starts_ray(image_folder, tmp_path):
    rows = make_rows(str(image_folder), 400)
    manifest = write_manifest(tmp_path / "pairs.parquet", rows)
    arguments = [f"--manifest.uri={manifest}", f"--output.uri={tmp_path}/out",
                 "--output.run_id=run"]  # fmt: skip
    run = tmp_path / "out" / "run-run"
    for number, code, lines in (
        (signal.SIGTERM, 130, HERE), (signal.SIGKILL, -9, HERE), (None, 0, "scorers   1 with 0"),
    ):  # fmt: skip
        job = start_job(*arguments)
        assert job.stdout is not None
        printed = ""
        for line in job.stdout:
            printed += line
            if number and line.startswith("scorers"):
                time.sleep(0.5)  # it is scoring
                job.send_signal(number)
                break
        printed += job.communicate()[0]
        assert job.returncode == code, printed
        assert lines in printed
        assert (" INFO " in printed, "has died; it continues on Ray" in printed) == (
            False,
            number is None,
        )
        assert (run / "lock.json").exists() == (number == signal.SIGKILL)
        assert (run / "_SUCCESS").exists() == (number is None)
        assert bool(list(run.glob("scores/*"))) == (number is None)
    assert read(tmp_path / "out")["pair_id"].to_pylist() == rows["pair_id"].to_pylist()


def test_results_that_do_not_fit_on_the_disk_are_a_fault_in_one_line(planted, tmp_path, capfd):
    manifest, _ = planted
    more = ["--failure.max_failed_fraction=1", "--output.rows_per_file=1000"]
    job = start_job(f"--manifest.uri={manifest}", f"--output.uri={tmp_path}/out", *more)
    # Not in this process: the log of another test's Ray would not fit either, and say so.
    resource.prlimit(job.pid, resource.RLIMIT_FSIZE, (8_192, 8_192))
    printed = job.communicate()[0]
    assert job.returncode == FAULT, printed
    lines = printed[printed.index(HERE) :].splitlines()[1:]
    (line,) = [line for line in lines if not line.startswith("scored")]
    assert line.startswith("fault: ")
    assert "File too large; finished rows are kept, the same command resumes" in line
    assert score(manifest, tmp_path / "out", *more) == DONE
    assert HERE in capfd.readouterr().out


@pytest.fixture
def plan_of(image_folder, tmp_path):
    def plan(num_rows=5, **sections):
        rows = make_rows(str(image_folder), num_rows)
        uri = write_manifest(tmp_path / "pairs.parquet", rows)
        output = {"uri": str(tmp_path / "out"), "run_id": "run"}
        settings = {"manifest": {"uri": uri}, "output": output, **sections}
        return make_plan(ScoreManifestConfig.model_validate(settings))

    return plan


def fits(plan) -> bool:
    lock = RunLock(plan.folder)
    try:
        return fits_this_process(plan, has_died=lock.succeeds_dead)
    finally:
        lock.release()


def test_what_needs_ray_is_not_scored_here(plan_of, monkeypatch):
    assert fits(plan_of())
    assert fits(plan_of(500, compute={"gpus_per_scorer": 0, "compile": True}))
    assert not fits(plan_of(501))
    assert not fits(plan_of(5, images={"max_pixels": 2**24 + 1}))
    assert not fits(plan_of(5, images={"resize": 3000, "max_pixels": 2**24}))  # 7,000 pairs of 256
    assert not fits(plan_of(5, compute={"scorers": 1}))
    assert not fits(plan_of(5, compute={"gpus_per_scorer": 0.5}))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert not fits(plan_of())


@pytest.mark.parametrize("left", ["lock.json", "suspects/attempt-1/a.b"])
def test_a_run_in_which_something_died_is_not_scored_here(left, plan_of, tmp_path):
    plan = plan_of()
    plan.folder.write(left, {
        "holder": "0", "process": 2**22 + 1, "host": "x", "beats": 1,
        "place": _place(),
    })  # fmt: skip
    assert not fits(plan)


def test_blocks_are_made_ahead_and_an_error_is_raised_where_they_are_used():
    made = []

    def make():
        for number in range(3):
            made.append(number)
            yield pa.table({"n": [number]})
        raise OSError("the store is away")

    blocks = _made_ahead(make())
    assert next(blocks)["n"].to_pylist() == [0]
    deadline_s = time.monotonic() + 20
    while len(made) < 3 and time.monotonic() < deadline_s:  # one waits, one is made
        time.sleep(0.01)
    assert made == [0, 1, 2]
    assert [block["n"].to_pylist() for block in (next(blocks), next(blocks))] == [[1], [2]]
    with pytest.raises(OSError, match="the store is away"):
        next(blocks)


def test_a_run_goes_on_when_nobody_reads_what_it_prints(image_folder, tmp_path):
    manifest = write_manifest(tmp_path / "pairs.parquet", make_rows(str(image_folder), 2))
    command = [sys.executable, "-m", "jobs.cli", "score", manifest, "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        assert job.stdout.readline().startswith(b"manifest")
        job.stdout.close()
        assert job.stderr.read() == b""
    assert job.returncode == DONE
    assert read(tmp_path / "out").num_rows == 2


def test_a_run_here_does_not_import_ray(image_folder, tmp_path):
    manifest = write_manifest(tmp_path / "pairs.parquet", make_rows(str(image_folder), 2))
    script = (
        "import sys; from jobs import score_manifest; "
        f"code = score_manifest.main(['{manifest}', '--output.uri={tmp_path}/out']); "
        "sys.exit(code or 'ray' in sys.modules)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0
