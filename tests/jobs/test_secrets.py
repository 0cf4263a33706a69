"""No planted secret appears in results, records, output or Ray's logs."""

import base64
import hashlib
import http.server
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs.finished import open_scores
from spips_core import packaged_checkpoints
from tests.jobs.conftest import start_job, write_manifest


class Guarded(http.server.BaseHTTPRequestHandler):
    """Serves files to clients with the right user and password; paths with /fails/ fail."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "").removeprefix("Basic ")
        if base64.b64decode(sent).decode() != f"auditor:{self.server.password}":
            self.send_error(401)
        elif "/fails/" in self.path:
            self.send_error(418, f"no {self.path}")  # the answer repeats the request
        else:
            self.send_range()

    def send_range(self) -> None:
        path = self.server.folder / self.path.split("?")[0].lstrip("/")
        if not path.exists():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        path = self.server.folder / self.path.split("?")[0].lstrip("/")
        self.send_response(200 if path.exists() else 404)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(path.stat().st_size if path.exists() else 0))
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def guarded(tmp_path) -> Iterator[http.server.ThreadingHTTPServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    server.password, server.folder = f"pw{uuid.uuid4().hex}", folder
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """Folder of Ray's sessions and logs; its sockets need a short path."""
    folder = tempfile.mkdtemp(prefix="r")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def text_of(folder: Path) -> dict[str, str]:
    """Return the content of each file of a folder, and the cells of each Parquet file."""
    texts = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            texts[str(path)] = path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                texts[f"{path} cells"] = str(pq.read_table(path).to_pydict())
    return texts


def test_no_secret_is_found_in_logs_or_outputs(guarded, images, ray_folder, tmp_path):
    signature, key, token = (uuid.uuid4().hex for _ in range(3))
    address = f"127.0.0.1:{guarded.server_port}"
    root = f"http://auditor:{guarded.password}@{address}"
    signed = f"?X-Amz-Signature={signature}&Expires=9"
    for name, content in images.items():
        (guarded.folder / name).write_bytes(content)
    names = [f"d0_{level}.png" for level in range(4)]
    distorted = [*(f"{root}/{name}{signed}" for name in names), f"{root}/absent.png{signed}",
                 f"{root}/fails/a.png{signed}", f"http://auditor:x{signature}@{address}/r0.png",
                 f"nosuch://auditor:{guarded.password}@host/a.png{signed}",
                 f"{root}/no such.png{signed}"]  # fmt: skip
    rows = pa.table({
        "pair_id": [f"pair-{i}" for i in range(len(distorted))],
        "reference_uri": [f"{root}/r0.png{signed}"] * len(distorted),
        "distorted_uri": distorted,
    })  # fmt: skip
    write_manifest(guarded.folder / "pairs.parquet", rows)
    model = packaged_checkpoints()["embedded"].read_bytes()
    (guarded.folder / "m.safetensors").write_bytes(model)

    job = start_job(
        f"--manifest.uri={root}/pairs.parquet",
        f"--model.checkpoint={root}/m.safetensors",
        f"--model.checkpoint_sha256={hashlib.sha256(model).hexdigest()}",
        f"--output.uri={tmp_path}/out", "--failure.max_failed_fraction=1", "--compute.scorers=1",
        AWS_SECRET_ACCESS_KEY=key, AWS_SESSION_TOKEN=token, RAY_TMPDIR=ray_folder,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )  # fmt: skip
    printed = job.communicate()[0]
    assert job.returncode == 0, printed
    (run,) = (tmp_path / "out").glob("run-*")
    statuses = open_scores(str(run)).to_table().sort_by("pair_id")["status"].to_pylist()
    assert statuses == ["ok"] * 4 + ["missing", "unreadable", "forbidden", "unreadable", "missing"]
    logs = text_of(Path(ray_folder))
    assert any("PairLoader" in text for text in logs.values())
    texts = {"printed": printed, **logs, **text_of(tmp_path / "out")}
    secrets = {"password": guarded.password, "signature": signature, "key": key, "token": token}
    hits = [(name, where) for where, text in texts.items()
            for name, secret in secrets.items() if secret in text]  # fmt: skip
    assert hits == []
    assert os.environ["AWS_SECRET_ACCESS_KEY"] != key
