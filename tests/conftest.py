"""S3 stores for tests: moto always, a real gateway where one is given; and never anybody's own.

Imports of what only S3 needs stand inside the fixtures: the tests of spips_core also run where
nothing but torch is installed.
"""

import contextlib
import logging
import os
import signal
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NOBODY_LISTENS = "http://127.0.0.1:9"
RAY_TESTS = (
    "chaos", "jobs", "examples", "tests/pipeline/scoring/test_reading.py",
)  # fmt: skip
"""Folders of tests, and files, whose tests start a Ray cluster."""
SECOND_HALF = tuple(
    f"tests/jobs/test_{name}.py" for name in ("training", "score_manifest", "secrets")
)
"""Files of these that run beside the others, once the tests without Ray are done."""
RAY_LIMITS = {
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}
"""Ray's waits for its own processes, long enough for two clusters on two busy cores."""
S3_SERVERS = ("moto", pytest.param("gateway", marks=pytest.mark.s3))


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        name: "moto" or "gateway".
        environment: variables that lead s3fs to it.
        others: a client that shares no cache with the code under test, as if on another machine.
        instances: s3fs's own cache of file systems, each with the keys that it was made with.
    """

    name: str
    environment: dict[str, str]
    others: Any
    instances: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class S3Store:
    """A bucket, empty at first.

    Attributes:
        bucket: its URI.
        server: where it is.
    """

    bucket: str
    server: S3Server


def pytest_configure() -> None:
    """Keep a developer's credentials, profiles and endpoints out of tests and what they start.

    This runs before fsspec is imported, which reads its settings then. Whoever asks for S3 without
    `s3_store` is refused by this very machine, and AWS is never reached.
    """
    for name in list(os.environ):
        if name.startswith(("AWS_", "BOTO_", "FSSPEC_")):
            del os.environ[name]
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "FSSPEC_CONFIG_DIR"):
        os.environ[name] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ |= s3_environment(NOBODY_LISTENS, "nobody", "nothing")
    # What a script starts in its background ignores Ctrl-C; the jobs of tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ray's workers would stand back for tests that run beside theirs, until these time out.
    os.environ.setdefault("RAY_worker_niceness", "0")
    for name, value in RAY_LIMITS.items():
        os.environ.setdefault(name, value)
    # torch's threads wait for each other without spinning: where several processes share the CPUs,
    # spinning takes ten times the CPU time of the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def group_of(file: str) -> str:
    """Return which tests run one after the other with those of a file, in one process."""
    if file in SECOND_HALF:
        return "ray, second half"
    return "ray" if file.split("/")[1] in RAY_TESTS or file in RAY_TESTS else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked s3 where no gateway is given, and order the groups.

    The tests that start Ray come first, their second half last, when only these are left.
    """
    if "SPIPS_TEST_S3_ENDPOINT" not in os.environ:
        reason = "SPIPS_TEST_S3_ENDPOINT is not set; .ci/s3_gateway.sh starts a gateway"
        for item in items:
            if item.get_closest_marker("s3"):
                item.add_marker(pytest.mark.skip(reason=reason))
    order = {"ray": 0, "ray, second half": 2}
    items.sort(key=lambda item: order.get(group_of(item.nodeid.split("::")[0]), 1))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run the tests that start a Ray cluster, and the others the rest by files.

    Tests of Ray wait often, so other tests run well beside them; a third cluster would not.
    """
    from xdist.scheduler import LoadFileScheduling

    class GroupScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.split("::", maxsplit=1)[0])

    return GroupScheduling(config, log)


def s3_environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def connect(name: str, endpoint: str, access_key: str, secret_key: str) -> S3Server:
    from s3fs import S3FileSystem

    others = S3FileSystem(
        endpoint_url=endpoint,
        key=access_key,
        secret=secret_key,
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    return S3Server(name, s3_environment(endpoint, access_key, secret_key), others)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield connect("moto", f"http://{host}:{port}", "moto", "moto")
    server.stop()


@pytest.fixture(scope="session")
def gateway_server() -> S3Server:
    names = ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")
    return connect("gateway", *(os.environ[f"SPIPS_TEST_S3_{name}"] for name in names))


@pytest.fixture(params=S3_SERVERS)
def s3_store(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    """An empty bucket that s3fs, and Ray workers started later, find by themselves."""
    with open_bucket(request, request.param) as store:
        yield store


@pytest.fixture
def one_s3_store(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    """As `s3_store`, for tests that take long: on the gateway where one is given, else on moto."""
    name = "gateway" if "SPIPS_TEST_S3_ENDPOINT" in os.environ else "moto"
    with open_bucket(request, name) as store:
        yield store


@pytest.fixture(params=("local", *S3_SERVERS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URI of an empty folder, of each kind of store in turn."""
    if request.param == "local":
        yield str(tmp_path)
    else:
        with open_bucket(request, request.param) as store:
            yield f"{store.bucket}/folder"


@contextlib.contextmanager
def open_bucket(request: pytest.FixtureRequest, name: str) -> Iterator[S3Store]:
    from s3fs import S3FileSystem

    server: S3Server = request.getfixturevalue(f"{name}_server")
    bucket = f"spips-{uuid.uuid4().hex}"
    server.others.mkdir(bucket)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setattr(S3FileSystem, "_cache", server.instances)
        yield S3Store(f"s3://{bucket}", server)
    server.others.rm(bucket, recursive=True)


@pytest.fixture
def write_run(tmp_path: Path) -> Any:
    """A function that writes a finished run, as the scoring job does, from columns of results."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.runs.records import RECORD_VERSION, AttemptRecord, PlanRecord, RunRecord
    from pipeline.runs.run import RunFolder
    from pipeline.runs.schema import IMAGE_FIELDS, SCORE_FIELDS, SIZE_FIELDS, Status, result_schema
    from pipeline.runs.storage import open_store

    def write(
        columns: dict[str, Any],
        run_id: str = "night",
        *,
        finished_at: str = "2026-01-02T02:00:00+00:00",
        retried_at: str | None = None,
        attempts: Sequence[int] | None = None,
        night: str | None = None,
        digest: str = "a" * 64,
        config: dict[str, Any] | None = None,
        is_finished: bool = True,
        absent: Sequence[str] = (),
        folder: Path = tmp_path / "scores",
    ) -> str:
        num_rows = len(columns["pair_id"])
        own = {name: pa.array(values) for name, values in columns.items()}
        own |= {
            "reference_uri": pa.array(
                columns.get("reference_uri", [f"/r{number}.png" for number in range(num_rows)])
            ),
            "distorted_uri": pa.array(columns.get("distorted_uri", ["/d.png"] * num_rows)),
        }
        scored = {field.name for field in (*SCORE_FIELDS, *IMAGE_FIELDS, *SIZE_FIELDS)}
        scored |= {"status", "error"}
        pass_through = pa.schema([(name, v.type) for name, v in own.items() if name not in scored])
        status = columns.get("status", ["ok"] * num_rows)
        blank = {
            field.name: pa.nulls(num_rows, field.type) for field in result_schema(pass_through)
        }
        rest = {
            "status": status,
            "error": columns.get("error", ["" if s == "ok" else "expected x" for s in status]),
            "model_digest": [digest] * num_rows,
            "run_id": [run_id] * num_rows,
            "run_attempt": attempts or [1] * num_rows,
            "fetch_retries": [0] * num_rows,
        }
        table = pa.table(blank | own | rest, schema=result_schema(pass_through))
        table = table.drop_columns([*absent])
        path = folder / f"run-{run_id}"
        (path / "scores").mkdir(parents=True)
        half = max(num_rows // 2, 1)
        files = []
        for number, part in enumerate((table.slice(0, half), table.slice(half))):
            files.append(f"scores/{number}.parquet")
            pq.write_table(part, path / files[-1])
        counts = {name.value: status.count(name.value) for name in Status}
        plan = {
            "version": RECORD_VERSION,
            "run_id": run_id,
            "night": night,
            "num_rows": num_rows,
            "columns": {
                "pair_id": "pair_id",
                "reference": "reference_uri",
                "distorted": "distorted_uri",
            },
            "fingerprints": {"manifest": "m", "model": digest, "scoring": "s"},
            "model": {
                "digest": digest,
                "trained": True,
                "training": {},
                "config": {"streams": ["tradition", "percept", "semantic"]},
                "fusion_weights": {"tradition": 0.2, "percept": 0.3, "semantic": 0.5},
            },
            "config": {"images": {}, "model": {"checkpoint": "embedded"}} | (config or {}),
            "versions": {},
        }
        attempt = AttemptRecord(
            files=files,
            num_rows=num_rows,
            num_rows_resumed=0,
            scorers={},
            started_at=finished_at,
            elapsed_s=1.0,
            rows_per_s=num_rows,
            fetch_retries=0,
        )
        recorded = [attempt]
        if retried_at is not None:
            update = {"files": (), "num_rows": 0, "started_at": retried_at}
            recorded.append(attempt.model_copy(update=update))
        run = RunFolder(*open_store(str(path)), str(path))
        run.write_plan(PlanRecord.model_validate(plan))
        if is_finished:
            run.write_run(
                RunRecord(
                    **plan,
                    attempts=recorded,
                    counts_by_status=counts,
                    failed_fraction=1 - counts["ok"] / max(num_rows, 1),
                    finished_at=retried_at or finished_at,
                )
            )
            run.write_success()
        return str(path)

    return write


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision's, and a proxy where nobody listens; returns the cache."""
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, NOBODY_LISTENS)
    for exception in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(exception, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


@dataclass
class Webhook:
    """A server that takes messages.

    Attributes:
        received: path, content type and content of each request.
        authorization: that of the last request.
        status: what it answers with.
    """

    received: list[tuple[str, str, bytes]] = field(default_factory=list)
    authorization: str | None = None
    status: int = 200
    port: int = 0
    stop: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/T000-B000-XXXX?key=T000-B000-XXXX"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A real server on loopback; it stops with the test."""
    import http.server
    import threading

    hook = Webhook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            hook.authorization = self.headers["Authorization"]
            hook.received.append((self.path, self.headers["Content-Type"], content))
            self.send_response(hook.status, f"no {self.path}")  # servers repeat the request
            self.send_header("Location", hook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    hook.port, hook.stop = server.server_port, stop
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hook
    stop()
