"""What a run says when Ray gives up, and what it counts."""

import io
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from ray.exceptions import RayError
from s3fs import S3FileSystem

from pipeline.runs.finished import open_scores
from pipeline.runs.schema import Status
from pipeline.scoring.config import ScoreManifestConfig
from pipeline.scoring.plan import make_plan
from pipeline.scoring.publish import _describe_failure, count_by_status
from tests.pipeline.runs.conftest import make_run, write_scores
from tests.s3 import connect

ROWS = {"pair_id": ["a"], "reference_uri": ["/r.png"], "distorted_uri": ["/d.png"]}


@pytest.mark.parametrize("remote", ["manifest", "output"])
def test_a_store_that_is_gone_is_named_instead_of_what_ray_says(remote, tmp_path, monkeypatch):
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = connect("moto", f"http://{host}:{port}", "moto", "moto")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(S3FileSystem, "_cache", {})
    bucket = f"spips-{uuid.uuid4().hex}"
    store.others.mkdir(bucket)
    folders = {"manifest": str(tmp_path), "output": str(tmp_path), remote: f"s3://{bucket}"}
    buffer = io.BytesIO()
    pq.write_table(pa.table(ROWS), buffer)
    (tmp_path / "m.parquet").write_bytes(buffer.getvalue())
    store.others.pipe_file(f"{bucket}/m.parquet", buffer.getvalue())
    settings = {
        "manifest": {"uri": f"{folders['manifest']}/m.parquet"},
        "output": {"uri": f"{folders['output']}/out"},
    }
    plan = make_plan(ScoreManifestConfig.model_validate(settings))
    error = RayError("a worker died")
    assert _describe_failure(plan, error) == "RayError: a worker died"
    server.stop()
    got = _describe_failure(plan, error)
    assert got.startswith("the store cannot be reached: ")
    assert f"{host}:{port}" in got
    assert "\n" not in got


def test_rows_are_counted_by_status_over_all_files(tmp_path):
    run = make_run(str(tmp_path))
    write_scores(run, "a", {"p": "ok", "q": "missing", "r": "ok"})
    write_scores(run, "b", {"s": "ok", "t": "too_small"})
    counts = count_by_status(open_scores(run.uri, allow_unfinished=True))
    assert list(counts) == [status.value for status in Status]
    expected = {"ok": 3, "missing": 1, "too_small": 1}
    assert {status: count for status, count in counts.items() if count} == expected
