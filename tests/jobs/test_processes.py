"""The job in its own process: killed, interrupted, submitted to a cluster, reading from S3."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from pipeline.runs.errors import ContractError
from pipeline.runs.finished import open_run, open_scores
from tests.jobs.conftest import REPOSITORY, make_rows, start_job, write_manifest

NUM_ROWS = 800  # enough rows that a fast machine is not done before the signal


@pytest.fixture
def arguments(image_folder, tmp_path) -> list[str]:
    manifest = write_manifest(tmp_path / "pairs.parquet", make_rows(str(image_folder), NUM_ROWS))
    return [
        f"--manifest.uri={manifest}",
        f"--output.uri={tmp_path / 'out'}",
        "--output.run_id=run",
        "--output.rows_per_file=25",
    ]


def stop_job_halfway(arguments: list[str], run: Path, number: signal.Signals) -> int:
    """Send a signal when three more result files exist; return the exit code."""

    def num_files() -> int:
        return len(list(run.glob("scores/*.parquet")))

    enough = num_files() + 3
    job = start_job(*arguments)
    deadline_s = time.monotonic() + 300
    while num_files() < enough:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    job.send_signal(number)
    job.communicate()
    return job.returncode


def test_a_stopped_run_cannot_be_read_and_resumes_where_it_stopped(arguments, tmp_path):
    run = tmp_path / "out" / "run-run"
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)):
        assert stop_job_halfway(arguments, run, number) == code
        assert not (run / "_SUCCESS").exists()
        with pytest.raises(ContractError, match="unfinished"):
            open_scores(str(run))

    job = start_job(*arguments)
    printed = job.communicate()[0]
    assert job.returncode == 0, printed
    ids = open_scores(str(run)).to_table(columns=["pair_id"])["pair_id"].to_pylist()
    assert sorted(ids) == [f"pair-{i:05d}" for i in range(NUM_ROWS)]
    (attempt,) = open_run(str(run)).record.attempts
    assert 75 <= attempt.num_rows_resumed < NUM_ROWS


@pytest.mark.parametrize("seconds", [0.3, 1.2])
def test_a_stop_while_ray_starts_ends_the_job(arguments, tmp_path, seconds):
    job = start_job(*arguments)
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("sample"):  # the end of the plan
            break
    time.sleep(seconds)
    job.send_signal(signal.SIGTERM)
    printed = job.communicate(timeout=240)[0]
    assert job.returncode == 130, printed
    assert printed.endswith("interrupted: run the same command again to go on\n")
    assert not (tmp_path / "out/run-run/lock.json").exists()


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:9", "expected a Ray cluster at 127.0.0.1:9, got ConnectionRefusedError"),
        ("nowhere", "expected a Ray cluster at nowhere, got ValueError"),
    ],
)
def test_a_cluster_that_does_not_answer_is_a_fault(arguments, tmp_path, address, problem):
    job = start_job(*arguments, RAY_ADDRESS=address)
    printed = job.communicate()[0]
    assert job.returncode == 1
    assert f"fault: RAY_ADDRESS: {problem}" in printed
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_kept_out_of_a_run(arguments, tmp_path):
    lock = tmp_path / "out" / "run-run" / "lock.json"
    first = start_job(*arguments)
    while not lock.exists():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    second = start_job(*arguments)
    printed = second.communicate()[0]
    assert second.returncode == 2, printed
    assert f"expected no other process writing to {lock.parent}, got process {first.pid}" in printed
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert not lock.exists()


def test_a_run_from_s3_to_s3_keeps_every_row_and_no_secret(one_s3_store, images, tmp_path):
    fs = fsspec.filesystem("s3")
    root = one_s3_store.bucket.removesuffix("/")
    fs.pipe({f"{root}/images/{name}": content for name, content in images.items()})
    fs.pipe(f"{root}/images/d0_0.png", b"")
    rows = make_rows(f"{root}/images", 60)
    write_manifest(tmp_path / "pairs.parquet", rows)
    fs.put(str(tmp_path / "pairs.parquet"), f"{root}/manifest/pairs.parquet")

    job = start_job(
        f"--manifest.uri={root}/manifest/",
        f"--output.uri={root}/scores/",
        "--output.run_id=run",
        "--output.rows_per_file=16",
        "--failure.max_failed_fraction=0.1",
        "--compute.scorers=1",
    )
    printed = job.communicate()[0]
    assert job.returncode == 0, printed
    fs.invalidate_cache()
    results = open_scores(f"{root}/scores/run-run").to_table().sort_by("pair_id")
    assert results["pair_id"].to_pylist() == rows["pair_id"].to_pylist()
    broken = [uri.endswith("d0_0.png") for uri in rows["distorted_uri"].to_pylist()]
    assert [status != "ok" for status in results["status"].to_pylist()] == broken
    written = printed.encode() + b"".join(map(fs.cat_file, fs.find(f"{root}/scores/")))
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in written

    again = start_job(f"--manifest.uri={root}/manifest/", f"--output.uri={root}/scores/",
                      "--output.run_id=run", "--failure.max_failed_fraction=0.1")  # fmt: skip
    assert "this run is finished" in again.communicate()[0]
    assert again.returncode == 0


@pytest.mark.parametrize("s3_store", ["moto"], indirect=True)
def test_a_second_night_on_s3_gets_only_the_images_that_changed(s3_store, images, tmp_path, caplog):
    caplog.set_level(logging.INFO, "werkzeug")  # a line for each request
    fs, root = fsspec.filesystem("s3"), s3_store.bucket
    fs.pipe({f"{root}/images/{name}": content for name, content in images.items()})
    manifest = write_manifest(tmp_path / "pairs.parquet", make_rows(f"{root}/images", 20))
    got = {}
    # The first night on Ray's workers, the second, of one changed image, in the job's process.
    nights = ("one", "--compute.scorers=1"), ("two", "--reuse-from=newest")
    for run_id, more in nights:
        caplog.clear()
        job = start_job(f"--manifest.uri={manifest}", f"--output.uri={tmp_path}/out",
                        f"--output.run_id={run_id}", more)  # fmt: skip
        printed = job.communicate()[0]
        assert job.returncode == 0, printed
        lines = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
        got[run_id] = [line for line in lines if "GET /" in line and ".png HTTP" in line]
        assert len([line for line in lines if "list-type=2" in line]) <= 4
        fs.pipe(f"{root}/images/d0_0.png", images["d0_0.png"] + b"\0")
    assert len(got["one"]) - len(got["two"]) >= 25 - 2  # both plans load the same few as a test
    assert any("/d0_0.png" in line for line in got["two"])
    results = open_scores(f"{tmp_path}/out/run-two").to_table().sort_by("pair_id")
    assert results["reused_from"].to_pylist() == [None] + ["one"] * 19
    assert results["distorted_tag"][0].as_py().startswith(f"{len(images['d0_0.png']) + 1} ")


@pytest.fixture
def head_node(tmp_path):
    """A real head node with token authentication; yields the environment of its clients."""
    token = tmp_path / "token"
    token.write_text(uuid.uuid4().hex * 2)
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    folder = tempfile.mkdtemp(prefix="ray")  # its sockets need a short path
    for _ in range(3):  # another process can take a port first
        port, log = free_port(), tmp_path / "node.log"
        node = start_node(environment, folder, port, log)
        if answers(node, port):
            break
        stop_node(node)
    else:
        raise AssertionError(log.read_text())
    yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
    stop_node(node)
    shutil.rmtree(folder, ignore_errors=True)


def start_node(
    environment: dict[str, str], folder: str, dashboard_port: int, log: Path
) -> "subprocess.Popen[bytes]":
    ray = str(Path(sys.executable).with_name("ray"))
    with log.open("wb") as output:
        return subprocess.Popen(
            [ray, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
             f"--port={free_port()}", f"--dashboard-port={dashboard_port}",
             # A fixed port otherwise, which another cluster on this machine can hold.
             f"--dashboard-agent-listen-port={free_port()}",
             "--dashboard-host=127.0.0.1", f"--temp-dir={folder}", "--disable-usage-stats"],
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip


def answers(node: "subprocess.Popen[bytes]", port: int, limit_s: float = 120) -> bool:
    """Return whether a node starts to listen at a port before it ends or the limit passes."""
    deadline_s = time.monotonic() + limit_s
    while node.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return True
    return False


def stop_node(node: "subprocess.Popen[bytes]") -> None:
    node.send_signal(signal.SIGTERM)
    node.wait(60)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def submit(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Submit the job as the README does, and wait for it."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "job", "submit", "--working-dir", ".", "--", sys.executable]
    for _ in range(60):  # until the head node answers
        done = subprocess.run(
            [*command, "jobs/score_manifest.py", *arguments],
            cwd=REPOSITORY, env=environment, text=True, capture_output=True, check=False,
        )  # fmt: skip
        printed = done.stderr + done.stdout
        if "Failed to connect" not in printed and "No available agent" not in printed:
            return done
        time.sleep(1)
    raise AssertionError(done.stderr)


def test_a_submitted_job_scores_and_its_exit_code_fails_the_job(head_node, image_folder, tmp_path):
    manifest = write_manifest(tmp_path / "pairs.parquet", make_rows(str(image_folder), 20))
    output = f"--output.uri={tmp_path / 'out'}"
    done = submit(head_node, f"--manifest.uri={manifest}", output, "--output.run_id=run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert open_scores(str(tmp_path / "out" / "run-run")).count_rows() == 20

    failed = submit(head_node, f"--manifest.uri={tmp_path}/absent.parquet", output)
    assert failed.returncode != 0
    assert "failed" in failed.stdout.lower()
    assert "absent.parquet cannot be read" in failed.stdout

    without_token = head_node | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    (tmp_path / "other").write_text("0" * 64)
    refused = submit(without_token, f"--manifest.uri={manifest}", output)
    assert refused.returncode != 0
    assert pq.read_metadata(manifest).num_rows == 20
